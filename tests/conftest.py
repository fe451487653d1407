"""What several test files need: a tiny random Llama with a tokenizer, made without a network."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from adapters.child import Stopping

# whoever starts the tests has a terminal of any size
for _size in ("COLUMNS", "LINES"):
    os.environ.pop(_size, None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads spin: more of them than cores are slower than one

# shared machines stall: a slow example is no wrong one
settings.register_profile("tuneloop", deadline=None)
settings.load_profile("tuneloop")

TINY_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Outcome:
    """What a command of the command line came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def tuneloop(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line in this process: `tuneloop("status", "-w", root)`."""
    from loop.cli.main import main

    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    """What a step's child stops by, in this process: signal handlers and threads are put back afterwards."""
    from adapters.child import Stopping

    torch = pytest.importorskip("torch")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads()
    yield Stopping()
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama (fp32 safetensors, about 0.4 MB) with a byte-level BPE tokenizer of 768
    tokens and a ChatML template, laid out as a real base model is. Widths are multiples of 64, so NF4 works."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


def make_tiny_model(
    folder: Path, *, seed: int = 0, hidden: int = 64, layers: int = 2, family: str = "llama", **more: object
) -> None:
    """Write the model of the fixture `tiny_model` into `folder`; the same arguments give the same bytes.

    Args:
        family: "llama", "qwen2", "qwen3", "gemma", ...: a model type of transformers.
        more: of its configuration.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    data = Path(__file__).parents[1] / "adapters" / "data" / "general.jsonl"
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator((m["content"] for line in lines for m in line["messages"]), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=1024,
        **dict(zip(("unk_token", "bos_token", "eos_token"), specials, strict=True)),
        **{"pad_token": specials[2]},
    )
    tokenizer.chat_template = TINY_TEMPLATE
    config = AutoConfig.for_model(
        family,
        vocab_size=768,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **more,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    torch.random.set_rng_state(state)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
