"""The README says what is so: commands parse, names exist, the tree and the output are real."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
ALL = "\n".join(PAGES.values())
sys.path[:0] = [str(ROOT / "reports"), str(ROOT / "docs")]

import build  # noqa: E402  # these two live beside what they write, in no package
import rebuild  # noqa: E402

import lvm.cli  # noqa: E402
import tune_jobs.train  # noqa: E402
import tune_jobs.triage  # noqa: E402
from lvm.audit.check import CHECKS  # noqa: E402
from lvm.core.config.read import load_run_config  # noqa: E402
from lvm.core.errors import ExitStatus  # noqa: E402
from lvm.core.packages import OWN_PACKAGES  # noqa: E402
from lvm.core.parts import MODELS, TERMS  # noqa: E402
from lvm.core.records import RunVerdict  # noqa: E402
from lvm.jobs.presets import PRESETS, preset  # noqa: E402
from lvm.triage.step import STEPS  # noqa: E402


def commands(prefix):
    """Every line of the shell blocks that holds a command, from `prefix` on."""
    blocks = re.findall(r"```bash\n(.*?)```", ALL, flags=re.S)
    lines = [line.split(" #")[0].rstrip() for block in blocks for line in block.splitlines()]
    return [line[line.index(prefix) :] for line in lines if prefix in line]


def text_block(after):
    start = README.index("```text\n", README.index(after)) + len("```text\n")
    return README[start : README.index("\n```", start)]


@pytest.mark.parametrize("line", commands("python tune_jobs/triage.py"))
def test_triage_commands_parse(line):
    tune_jobs.triage.parser().parse_args(shlex.split(line)[2:])


@pytest.mark.parametrize("line", commands("python tune_jobs/train.py"))
def test_train_commands_parse(line):
    tune_jobs.train.parser().parse_args(shlex.split(line)[2:])


@pytest.mark.parametrize("line", [c for c in commands("lvm ") if c.startswith("lvm ")])
def test_lvm_commands_parse(line):
    lvm.cli.parser().parse_args(shlex.split(line)[1:])


def test_there_are_commands_to_check():
    assert len(commands("python tune_jobs/triage.py")) >= 7
    assert len([c for c in commands("lvm ") if c.startswith("lvm ")]) >= 1


def test_every_lvm_command_is_named():
    actions = lvm.cli.parser()._subparsers._group_actions
    names = set(actions[0].choices)
    missing = {name for name in names if f"lvm {name}" not in ALL}
    assert missing <= {"ui"}  # printed by every run


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", README, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
    assert README.index("make triage") < README.index("make test") < README.index("## ")


@pytest.mark.parametrize("registry", [TERMS, MODELS, STEPS, CHECKS], ids=lambda r: r.kind)
def test_registered_names_are_documented(registry):
    for name in registry.names():
        part = registry.get(name)
        function = getattr(part, "look", getattr(part, "propose", part))  # of a check, of a step
        if function.__module__.partition(".")[0] in OWN_PACKAGES:
            assert f"`{name}`" in ALL, name


def test_presets_are_documented():
    for name in PRESETS:
        assert f"`{name}`" in ALL, name


def test_recipe_example_loads(tmp_path):
    recipe = re.search(r"```toml\n(.*?)```", ALL, flags=re.S).group(1)
    (tmp_path / "recipe.toml").write_text(recipe)
    config = load_run_config(tmp_path / "recipe.toml", preset("laptop"))
    assert (config.recipe.objective.space, config.gates.stage_eval_cosine) == ("raw", 0.4)


def test_exit_statuses_are_those_of_the_program():
    """The table, and what the help of the triage says."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", README, flags=re.M)
    assert [int(status) for status, _ in rows] == sorted(ExitStatus)
    words = {int(status): meaning for status, meaning in rows}
    for verdict in RunVerdict:
        assert verdict.value in words[verdict.exit_status]
    help_text = " ".join(tune_jobs.triage.parser().format_help().split())
    for status in ExitStatus:
        told = f"{status.value} {status.meaning}" in help_text
        assert told == (status is not ExitStatus.TOO_LITTLE)  # of the audit alone


def test_tree_is_the_tree():
    assert text_block("## The files") == rebuild.file_tree()


def test_readme_is_short():
    assert len(README.splitlines()) <= 180


def test_links_lead_to_files():
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([\w./-]+)\)", text):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_the_page_of_the_journal_is_that_of_its_structs():
    assert (ROOT / "docs/journal.md").read_text() == build.document()


def test_output_is_the_kept_output():
    shown = text_block("make triage")
    assert shown == (ROOT / "reports/sample/output.txt").read_text().rstrip()
    verdict = json.loads((ROOT / "reports/sample/verdict.json").read_text())
    assert shown.startswith(verdict["headline"])


@pytest.mark.parametrize("name", sorted(rebuild.EXAMPLES))
def test_kept_examples_are_complete(name):
    folder = ROOT / "reports" / name
    about = json.loads((folder / "about.json").read_text())
    verdict = json.loads((folder / "verdict.json").read_text())
    assert about["exit_status"] == RunVerdict(verdict["verdict"]).exit_status
    assert (folder / "report.md").read_text().startswith(f"# Triage report: {verdict['verdict']}")
    for path in folder.iterdir():
        assert str(ROOT) not in path.read_text(), path
