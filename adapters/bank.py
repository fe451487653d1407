"""One base model in memory and any number of adapters on it, one of which is in force at a time.

An adapter's weights are small and stay in memory; switching sets flags and copies nothing. LoRA and its kin live
inside the model's layers. Soft prompts (prompt and prefix tuning) leave the layers alone: they only change what
stands before the prompt, see `Bank.beginning`. What full fine-tuning leaves is a model of its own: it stands beside the
base and takes as much memory again, so it is loaded only where that is free. Not safe for several threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from adapters import base_model, registry, soft
from adapters.registry import AdapterCard
from adapters.specs import BaseModelRef
from store.errors import ArtifactError

if TYPE_CHECKING:
    import torch

_FIT = "Load it on the base model it was trained on, with this version of PEFT."


class Loaded:
    """An adapter read from disk: its PEFT configuration, its weights, and what its card says."""

    def __init__(self, config: Any, weights: dict[str, Any], card: AdapterCard | None, whole: Any = None) -> None:
        self.config = config
        self.weights = weights
        self.card = card
        self.whole = whole  # a model of its own, after full fine-tuning; then there is neither config nor weights
        self.key = ""  # its name inside PEFT, where not every name will do
        self.soft: Any = None  # its own PEFT model where it is a soft prompt

    @property
    def kind(self) -> Any:
        """PEFT's type; None for a whole model."""
        return None if self.whole is not None else self.config.peft_type


class Bank:
    """A base model and its adapters. The base itself answers to the empty name."""

    def __init__(self, model: Any, tokenizer: Any, ref: BaseModelRef) -> None:
        """`model` is a causal language model in evaluation mode, as `base_model.load` returns it."""
        import torch

        self.model = model
        self.tokenizer = tokenizer
        self.ref = msgspec.structs.replace(ref, compute="bf16" if model.dtype == torch.bfloat16 else "fp32")
        self._adapters: dict[str, Loaded] = {}
        self._host: Any = None  # the PEFT model whose layers stand in the base; its adapters are of one kind
        self._active = ""  # key of the adapter in force
        self._counter = 0

    @classmethod
    def open(cls, ref: BaseModelRef, device: str = "auto") -> Bank:
        """Load the base model.

        Raises:
            ModelError: it is missing, is another one than recorded, or cannot be loaded.
        """
        model, tokenizer = base_model.load(ref, device)
        return cls(model, tokenizer, ref)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def names(self) -> list[str]:
        """Of the adapters, in the order in which they were loaded."""
        return list(self._adapters)

    def card(self, name: str) -> AdapterCard | None:
        """What the adapter records of itself; None for the base and for adapters that record nothing.

        Raises:
            ArtifactError: there is no such adapter.
        """
        return self._get(name).card if name else None

    def load(self, name: str, folder: Path) -> None:
        """Read and insert an adapter; those that are there stay untouched if it fails.

        Raises:
            ArtifactError: the folder is damaged, belongs to another base, or its weights do not fit this one.
        """
        self.insert(name, read(folder, self.ref))

    def insert(self, name: str, loaded: Loaded) -> None:
        """The quick second half of `load`, for an adapter that was read elsewhere.

        Raises:
            ArtifactError: the name is taken, or the weights do not fit this base.
        """
        if not name or name in self._adapters:
            raise ArtifactError(
                f"there is an adapter {name!r} already" if name else "an adapter needs a name",
                hint="A name stands for one adapter for good: load it under a new one.",
            )
        self._counter += 1
        loaded.key = f"t{self._counter}"
        try:
            if loaded.whole is not None:
                self._place(loaded)
            elif loaded.config.is_prompt_learning:
                loaded.soft = self._with_soft_prompt(loaded)
            else:
                if self._host is not None and self._kind() != loaded.config.peft_type:
                    self._clear_host()
                self._add_to_host(loaded)
        except ArtifactError:
            raise
        except Exception as error:  # PEFT and torch raise many kinds for a config or a shape that does not fit
            reason = str(error).strip().splitlines() or [type(error).__name__]
            said = " ".join(line.strip() for line in reason)[:200]
            raise ArtifactError(f"the adapter does not fit this base model: {said}", hint=_FIT) from error
        self._adapters[name] = loaded

    def unload(self, name: str) -> None:
        """Remove an adapter.

        Raises:
            ArtifactError: there is none of that name.
        """
        loaded = self._get(name)
        del self._adapters[name]
        self._drop_from_host(loaded)

    @contextlib.contextmanager
    def active(self, name: str) -> Iterator[Any]:
        """The bare causal language model with the adapter `name` in force ("" for the base alone).

        A soft prompt is not in force by itself: the caller puts `beginning` before the prompt.

        Raises:
            ArtifactError: there is none of that name.
        """
        loaded = self._get(name) if name else None
        if loaded is not None and loaded.whole is not None:
            yield loaded.whole
            return
        if loaded is None or loaded.soft is not None:
            self._switch_off()
        else:
            self._switch_on(loaded)
        with self._precision(loaded):
            yield self.model

    def beginning(self, name: str) -> tuple[Any, int]:
        """A fresh key-value cache with what stands before every prompt, and how many positions that takes.

        Empty, with 0 positions, for the base and for adapters inside the layers; a soft prompt's own keys and values
        (prefix tuning) or those of its embeddings (prompt tuning) otherwise.

        Raises:
            ArtifactError: there is no such adapter.
        """
        import torch
        from transformers import DynamicCache

        tuned = self._get(name).soft if name else None
        if tuned is None:
            return DynamicCache(), 0
        with self.active(name), torch.inference_mode():
            cache = soft.beginning(tuned)
            return cache, cache.get_seq_length()

    def _get(self, name: str) -> Loaded:
        if name not in self._adapters:
            raise ArtifactError(f"there is no adapter {name!r}", hint=f"Loaded: {', '.join(self.names) or 'none'}.")
        return self._adapters[name]

    def _switch_off(self) -> None:
        if self._active:
            self._host.base_model.disable_adapter_layers()
            self._active = ""

    def _switch_on(self, loaded: Loaded) -> None:
        if self._active == loaded.key:
            return
        if self._host is None or loaded.key not in self._host.peft_config:
            # adapters of two kinds do not go into one PEFT model: those of this kind take the layers over
            self._clear_host()
            for other in self._adapters.values():
                if other.kind == loaded.kind:
                    self._add_to_host(other)
        self._force(loaded.key)

    def _precision(self, loaded: Loaded | None) -> contextlib.AbstractContextManager[Any]:
        """IA3 on a 4-bit base multiplies in fp32 and leaves it so, unless autocast is on as in its training."""
        import torch

        narrow = self.ref.quantisation == "nf4" and self.ref.compute == "bf16"
        mixed = narrow and loaded is not None and loaded.kind == "IA3"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if mixed else contextlib.nullcontext()

    def _place(self, loaded: Loaded) -> None:
        """Bring a whole model to the base's device.

        Raises:
            ArtifactError: its shape is not the base's.
        """
        mine, its = self.model.get_input_embeddings().weight.shape, loaded.whole.get_input_embeddings().weight.shape
        if mine != its or self.model.config.model_type != loaded.whole.config.model_type:
            raise ArtifactError("the model is of another architecture than this base model", hint=_FIT)
        loaded.whole.to(self.device)

    def _force(self, key: str) -> None:
        self._host.set_adapter(key, inference_mode=True)
        self._host.base_model.enable_adapter_layers()
        self._active = key

    def _add_to_host(self, loaded: Loaded) -> None:
        from peft import get_peft_model

        if self._host is None:
            self._host = get_peft_model(
                self.model, loaded.config, loaded.key, autocast_adapter_dtype=False, low_cpu_mem_usage=True
            )
        else:
            self._host.add_adapter(loaded.key, loaded.config, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
        try:
            _fill(self._host, loaded, self.model)
        except BaseException:
            self._drop_from_host(loaded)
            raise
        self._host.eval()
        self._force(loaded.key)

    def _drop_from_host(self, loaded: Loaded) -> None:
        if self._host is None or loaded.key not in self._host.peft_config:
            return
        if len(self._host.peft_config) == 1:
            self._clear_host()
            return
        if self._active == loaded.key:
            self._force(next(key for key in self._host.peft_config if key != loaded.key))
        self._host.delete_adapter(loaded.key)

    def _clear_host(self) -> None:
        if self._host is not None:
            from peft.tuners.tuners_utils import BaseTuner

            # not `unload()`: that of IA3 refuses 4-bit weights, as if it were to merge
            self.model = BaseTuner._unload_and_optionally_merge(self._host.base_model, merge=False)
        self._host, self._active = None, ""

    def _with_soft_prompt(self, loaded: Loaded) -> Any:
        from peft import get_peft_model

        tuned = get_peft_model(self.model, loaded.config, loaded.key, autocast_adapter_dtype=False)
        _fill(tuned, loaded, self.model)
        tuned.prompt_encoder.to(self.device)
        return tuned.eval()

    def _kind(self) -> Any:
        return next(iter(self._host.peft_config.values())).peft_type


def read(folder: Path, base: BaseModelRef) -> Loaded:
    """Check an adapter folder and read it into memory: the slow half of `Bank.load`, safe in any thread.

    Raises:
        ArtifactError: the folder is damaged, unsafe or belongs to another base.
    """
    info = registry.describe(folder)
    if info.card is not None:
        registry.matches(info.card, base)
    if info.kind == registry.WHOLE:
        return Loaded(None, {}, info.card, _whole(folder, info.bytes, base))
    from peft import PeftConfig
    from safetensors.torch import load_file

    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(str(folder / registry.WEIGHTS))
    except Exception as error:  # a config of another PEFT, an unknown method, a dtype nobody knows
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ArtifactError(f"{folder} cannot be read: {said}", hint=_FIT) from error
    config.inference_mode = True
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # PiSSA and its kin rewrite the shared base while they initialise
    return Loaded(config, weights, info.card)


def _whole(folder: Path, size: int, base: BaseModelRef) -> Any:
    """The model of a folder that full fine-tuning left, in the precision of the base's products.

    Raises:
        ArtifactError: there is no room for it beside the base, or it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if base.quantisation == "bf16" and base.compute == "fp32":  # 16 bits in the file, 32 in memory
        size *= 2
    free = free_memory()
    if size > free:
        raise ArtifactError(
            f"the model of {size >> 20} MiB does not fit beside the base model: {free >> 20} MiB are free",
            hint="After full fine-tuning each version is a whole model: unload another one, add memory, or train LoRA.",
        )
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
            dtype=torch.bfloat16 if base.compute == "bf16" else torch.float32,
        ).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{folder} cannot be loaded: {str(error)[:200]}", hint=_FIT) from error


def free_memory() -> int:
    """Bytes that models can still take: of the GPU where there is one, else of this machine."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62


def _fill(host: Any, loaded: Loaded, model: Any) -> None:
    """Put the weights where PEFT has made room for them.

    Raises:
        ArtifactError: a tensor has no place, or a place no tensor.
    """
    import torch
    from peft import set_peft_model_state_dict

    weights = loaded.weights
    inside = not loaded.config.is_prompt_learning
    if inside and model.dtype == torch.bfloat16:
        # autocast rounds an adapter to bf16 for every product of its training; kept so, no forward converts it again
        weights = {key: value.to(torch.bfloat16) for key, value in weights.items()}
    result = set_peft_model_state_dict(host, weights, loaded.key, low_cpu_mem_usage=inside)
    extra = [name for name in result.unexpected_keys if name != "prompt_embeddings"]  # which goes in by another way
    empty = [name for name, value in host.named_parameters() if value.is_meta]
    if extra or empty:
        raise ArtifactError(
            f"the adapter does not fit this base model: {len(extra)} of its tensors have no place, "
            f"{len(empty)} places have none",
            hint=_FIT,
        )
