import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from loop.first_settings import default_toml
from loop.settings import FILE_NAME, GateSettings, Settings, TaskSettings, TrainingSettings, load
from store.errors import SettingsError

LABELS = ["urgent", "billing", "technical", "general"]


def write(root: Path, text: str) -> Path:
    (root / FILE_NAME).write_text(text, encoding="utf-8")
    return root


def refused(root: Path, text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(write(root, text), env or {})
    return caught.value.message


def test_labels_alone_are_enough(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[tasks.tickets]\nlabels = ["a", "b"]\n'), {})
    task = settings.task("tickets")
    assert task.training.rank == 16
    assert settings.model.quantisation == "nf4"
    assert not task.gate.quality_thresholds  # nothing is promoted without thresholds
    with pytest.raises(SettingsError, match="no task 'mails'"):
        settings.task("mails")


class TestProfiles:
    def _training(
        self, root: Path, lines: str, quantisation: str = "nf4", env: dict[str, str] | None = None, base: str = ""
    ) -> TrainingSettings:
        model = f'[model]\nbase = "{base}"\nquantisation = "{quantisation}"\n'
        text = f'{model}[tasks.t]\nlabels = ["a", "b"]\n[tasks.t.training]\n{lines}\n'
        return load(write(root, text), env or {}).task("t").training

    def test_full_fine_tuning_has_a_column_of_its_own(self, tmp_path: Path) -> None:
        lora = self._training(tmp_path, "", base="/models/7b")
        full = self._training(tmp_path, 'method = "full"', "bf16")
        assert 1e-4 <= lora.learning_rate <= 5e-4 and 0 <= lora.weight_decay <= 0.01
        assert 1e-5 <= full.learning_rate <= 5e-5 and 0.01 <= full.weight_decay <= 0.1
        assert full.epochs <= 3

    def test_the_built_in_model_has_values_of_its_own_and_what_is_set_wins(self, tmp_path: Path) -> None:
        named = self._training(tmp_path, "", base="/models/7b")
        own = self._training(tmp_path, "")
        assert (own.learning_rate, own.min_steps) == (1e-3, 120) and (named.learning_rate, named.min_steps) == (
            2e-4,
            60,
        )
        assert self._training(tmp_path, "learning_rate = 3e-4").learning_rate == 3e-4
        assert self._training(tmp_path, "", env={"TUNELOOP_TASKS__T__TRAINING__MIN_STEPS": "9"}).min_steps == 9
        assert self._training(tmp_path, 'objective = "dpo"').learning_rate == 5e-5
        assert self._training(tmp_path, 'method = "full"', "bf16").learning_rate == 2e-5

    def test_a_smaller_batch_of_answers_is_one_micro_batch(self, tmp_path: Path) -> None:
        asked = self._training(tmp_path, 'objective = "grpo"\nbatch_size = 96')
        assert (asked.batch_size, asked.micro_batch_size, asked.min_steps) == (96, 32, 200)

    @pytest.mark.parametrize("lines", ['method = ["qlora"]', "objective = 3", "profile = {}", 'batch_size = "many"'])
    def test_a_value_of_the_wrong_type_is_told(self, lines: str, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=lines.split()[0]):
            self._training(tmp_path, lines)

    def test_rank_follows_the_profile(self, tmp_path: Path) -> None:
        ranks = {
            name: self._training(tmp_path, f'profile = "{name}"').rank for name in ("simple", "standard", "complex")
        }
        assert ranks["simple"] in range(4, 9) and ranks["standard"] == 16 and ranks["complex"] in range(32, 65)

    def test_what_is_set_wins_from_file_and_environment(self, tmp_path: Path) -> None:
        chosen = self._training(
            tmp_path, 'profile = "complex"\nrank = 48\nmethod = "full"', "bf16",
            {"TUNELOOP_TASKS__T__TRAINING__LEARNING_RATE": "3e-5"},
        )  # fmt: skip
        assert (chosen.rank, chosen.alpha, chosen.learning_rate) == (48, 64, 3e-5)

    def test_the_trainings_spec_takes_every_setting(self) -> None:
        from adapters.specs import TrainSpec

        own = {"general_share", "general_file", "valid_share", "max_attempts"}
        assert set(TrainingSettings.model_fields) - own <= set(TrainSpec.__struct_fields__)


def test_the_written_file_loads_and_shows_every_key(tmp_path: Path) -> None:
    text = default_toml(
        LABELS, label_descriptions={"urgent": 'harm "now" \\ soon'}, overrides={"training": {"rank": 8}}
    )
    settings = load(write(tmp_path, text), {})
    task = settings.tasks["tickets"]
    assert task.labels == LABELS
    assert task.label_descriptions == {"urgent": 'harm "now" \\ soon'}
    assert task.training == TrainingSettings(rank=8, learning_rate=1e-3, min_steps=120)  # as the built-in model has it
    assert "# learning_rate = 0.001 " in text and "# learning_rate = 0.0002 " in default_toml(
        LABELS, overrides={"model": {"base": "/models/7b"}}
    )
    assert task.gate.quality_thresholds
    assert task.gate.max_forgetting == 0.05

    def keys(section: type[BaseModel]) -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            kind = field.annotation
            nested = isinstance(kind, type) and issubclass(kind, BaseModel)
            found += keys(kind) if nested else [name]  # type: ignore[arg-type]
        return found

    for key in keys(Settings) + keys(TaskSettings):
        assert key in ("tasks", "notify", "backends") or f"{key} =" in text, key
    example = text[text.index("#   [notify.team]") : text.index("[tasks.tickets]")].replace("#   ", "")
    loaded = load(write(tmp_path, text + example), {})
    assert set(loaded.notify) == {"team", "pager"}
    assert set(loaded.backends) == {"axolotl", "unsloth"}


def test_defaults_written_as_comments_are_the_defaults(tmp_path: Path) -> None:
    shown = default_toml(LABELS)
    uncommented = "\n".join(
        line.removeprefix("# ")
        for line in shown.splitlines()
        if line.startswith("[") or (" = " in line and not line.startswith(("#   ", "# max_latency_ms")))
    )
    assert load(write(tmp_path, uncommented), {}).model_dump() == load(write(tmp_path, shown), {}).model_dump()


def test_environment_overrides(tmp_path: Path) -> None:
    write(tmp_path, '[tasks.support-mails]\nlabels = ["a", "b"]\ntraining.alpha = 8\n')
    settings = load(
        tmp_path,
        {
            "TUNELOOP_TASKS__SUPPORT_MAILS__TRAINING__RANK": "4",
            "TUNELOOP_TASKS__SUPPORT_MAILS__LABELS": '["x", "y", "z"]',
            "TUNELOOP_WANDB__PROJECT": "123",
            "TUNELOOP_WANDB__ENABLED": "false",
            "TUNELOOP_MODEL__QUANTISATION": "nf4",
            "TUNELOOP_BENCH_DATA": "/elsewhere",
        },
    )
    task = settings.tasks["support-mails"]
    assert (task.training.rank, task.training.alpha, task.labels) == (4, 8, ["x", "y", "z"])
    assert settings.wandb.project == "123"
    assert settings.wandb.enabled is False


def test_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, '[tasks.t]\nlabels = ["a", "b"]\n[tasks.t.training]\nlearning_rte = 1e-4\n')
    assert "tasks.t.training.learning_rte" in message
    assert "'learning_rate'" in message
    assert FILE_NAME in message
    assert "'daemon'" in refused(tmp_path, '[deamon]\n[tasks.t]\nlabels = ["a", "b"]\n')
    message = refused(tmp_path, '[tasks.t]\nlabels = ["a", "b"]\n', {"TUNELOOP_TASKS__T__GATE__P_VALU": "0.1"})
    assert "TUNELOOP_TASKS__T__GATE__P_VALU" in message
    assert "'p_value'" in message


def test_an_unknown_key_never_shows_its_value(tmp_path: Path) -> None:
    message = refused(tmp_path, '[endpoint]\napi_key = "sk-planted"\n[tasks.t]\nlabels = ["a", "b"]\n')
    assert "sk-planted" not in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[tasks.t]\nlabels = ["a", "b"]\ntraining.rank = "16"\n', ["tasks.t.training.rank", "'16'", "integer"]),
        (
            '[tasks.t]\nlabels = ["a", "b"]\ntraining.method = "qlra"\n',
            ["tasks.t.training.method", "'qlra'", "'qlora'"],
        ),
        ('[tasks.t]\nlabels = ["a", "b"]\nsplits.exam_share = 1.5\n', ["exam_share", "1.5", "less than 1"]),
        ('[tasks.t]\nlabels = ["a"]\n', ["two labels"]),
        ('[tasks.t]\nlabels = ["a", "A"]\n', ["'a' stands twice"]),
        ('[tasks.t]\nlabels = ["a", "b\\nc"]\n', ["printable"]),
        ('[tasks.t]\nlabels = ["a", "b"]\ngate.protected = ["urgent"]\n', ["gate.protected", "'urgent'"]),
        ('[tasks.t]\nlabels = ["alpha", "b"]\nlabel_descriptions.alfa = "x"\n', ["'alfa'", "did you mean 'alpha'"]),
        ('[tasks."A b"]\nlabels = ["a", "b"]\n', ["'A b'"]),
        ("[tasks.t]\n", ["'tasks.t.labels' is missing"]),
        ("[model]\n", ["'tasks' is missing"]),
        ("tasks = 3\n", ["'tasks' is 3"]),
        ("[tasks.t\n", ["no valid TOML", "line 1"]),
        ('[tasks.t]\nlabels = ["a", "b"]\n[model]\nquantisation = "bf16"\n', ["training.method", "4-bit"]),
        ('[model]\nquantisation = "fp32"\ncompute = "bf16"\n[tasks.t]\nlabels = ["a", "b"]\n', ["model", "compute"]),
        ('[tasks.t]\nlabels = ["a", "b"]\ntraining.method = "full"\n', ["tasks.t.training.method", "4-bit"]),
        ('[tasks.t]\nlabels = ["a", "b"]\ntraining = {method = "ia3", dora = true}\n', ["tasks.t.training.dora"]),
        ('[tasks.t]\nlabels = ["a", "b"]\ntraining.backend = "axolotl"\n', ["training.backend", "[backends.axolotl]"]),
        ('[tasks.t]\nlabels = ["a", "b"]\ntraining.micro_batch_size = 7\n', ["tasks.t.training.micro_batch_size"]),
    ],
)
def test_wrong_values_are_told(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refused(tmp_path, text)
    for part in parts:
        assert part in message, message


def test_a_missing_file_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {})
    assert "tuneloop init" in caught.value.hint


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        GateSettings().min_exam = 1  # type: ignore[misc]


@given(
    st.lists(
        st.text("abcdefgh -_'\"\\#=é", min_size=1, max_size=12).map(str.strip).filter(bool), min_size=2, max_size=6
    ),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=40),
)
def test_any_labels_survive_the_file(tmp_path_factory: pytest.TempPathFactory, labels: list[str], about: str) -> None:
    unique = list({label.casefold(): label for label in labels}.values())
    if len(unique) < 2:
        return
    root = tmp_path_factory.mktemp("w")
    write(root, default_toml(unique, description=about, label_descriptions={unique[0]: about}))
    task = load(root, {}).tasks["tickets"]
    assert task.labels == unique
    assert task.description == about


def test_loading_is_light() -> None:
    heavy = ("torch", "openai", "sklearn", "wandb", "sqlmodel")
    code = f"import sys, loop.settings; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_who_is_notified_is_checked_and_an_address_is_never_shown(tmp_path: Path) -> None:
    start = '[tasks.tickets]\nlabels = ["a", "b"]\n[notify.team]\n'
    settings = load(write(tmp_path, start + 'kind = "slack"\nurl = "https://hooks.example/T0/hush"\n'), {})
    assert "hush" not in repr(settings)
    assert "degraded" in settings.notify["team"].events
    for wrong, told in (
        ('kind = "slack"', "url or url_env"),
        ('kind = "webhook"\nurl = "https://x.example/hush"\nurl_env = "X"', "url or url_env"),
        ('kind = "webhook"\nurl = "file:///hush"', "http://"),
        ('kind = "command"\nurl_env = "X"', "command ="),
        ('kind = "command"\ncommand = "ls"', "list"),
        ('kind = "slack"\nurl_env = "X"\nevents = ["promotions"]', "promotion"),
        ('kind = "slack"\nurl = ["https://x.example/hush"]', "expected a valid string"),
        ('kind = "slack"\nurl_env = "X"\nurls = "https://x.example/hush"', "unknown key"),
    ):
        message = refused(tmp_path, start + wrong)
        assert told in message
        assert "hush" not in message
