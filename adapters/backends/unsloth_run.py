"""Runs in unsloth's own environment: `python unsloth_run.py FOLDER`. Nothing of ours is imported there.

FOLDER holds spec.json (see `adapters.specs.TrainSpec`), plan.json {"steps", "warmup", "targets", "output"} and
tokens.jsonl {"input_ids", "attention_mask", "labels"} a line. It trains, goes on from its last checkpoint, writes the
adapter into `output`, and tells of every step in a line that begins with "tuneloop: ".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]  # first: it changes the libraries below

    # isort: split
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "tokens.jsonl").read_text(encoding="utf-8").splitlines()]
    output = Path(plan["output"])
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=spec["init_adapter"] or spec["base"]["path"],
        max_seq_length=spec["max_length"],
        dtype=torch.bfloat16,
        load_in_4bit=spec["method"] == "qlora",
        use_exact_model_name=True,
        random_state=spec["seed"],
    )
    checkpointing = "unsloth" if spec["gradient_checkpointing"] else False
    if not spec["init_adapter"]:
        model = FastLanguageModel.get_peft_model(
            model,
            r=spec["rank"],
            target_modules=plan["targets"],
            lora_alpha=spec["alpha"],
            lora_dropout=spec["dropout"],
            use_rslora=spec["rslora"],
            use_gradient_checkpointing=checkpointing,
            random_state=spec["seed"],
        )

    class Tell(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                told = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs}
                print("tuneloop: " + json.dumps({"step": state.global_step, **told}), flush=True)

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(row["input_ids"]) for row in batch)
        blank = {"input_ids": tokenizer.pad_token_id or tokenizer.eos_token_id, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in batch])
            for name, value in blank.items()
        }

    arguments = TrainingArguments(
        output_dir=str(output.parent / "unsloth"),
        max_steps=plan["steps"],
        per_device_train_batch_size=spec["micro_batch_size"],
        gradient_accumulation_steps=spec["batch_size"] // spec["micro_batch_size"],
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=plan["warmup"],
        weight_decay=spec["weight_decay"],
        max_grad_norm=spec["max_grad_norm"],
        bf16=True,
        use_cpu=spec["device"] == "cpu",
        optim="adamw_torch",
        seed=spec["seed"],
        data_seed=spec["seed"],
        logging_steps=1,
        save_steps=spec["checkpoint_every"],
        save_total_limit=2,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), data_collator=collate, callbacks=[Tell()]
    )
    last = get_last_checkpoint(arguments.output_dir) if Path(arguments.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
