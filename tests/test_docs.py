"""README and docs: every link leads somewhere, every command is one that the library takes, every config loads."""

import re
import shlex
from pathlib import Path

import pytest

from uda_jax import config
from uda_jax.cli.main import parsed
from uda_jax.runs import sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "launch" / "README.md"]


def commands(page):
    """Returns the words of every `uda` command of a page's code, without comments and with continued lines as one."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    ")]
    found = [part.strip() for line in lines for part in re.split(r"\s#\s", line)[0].split(";")]
    return [shlex.split(command)[1:] for command in found if command.startswith("uda ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Pages and pictures of the repository; nothing is fetched."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_taken_and_their_configs_load(page):
    for words in commands(page):
        options = parsed(words)
        reference = getattr(options, "config", None) or getattr(options, "reference", None)
        if options.command == "sweep":
            assert len(sweep.grid(reference, options.overrides, options.seeds, Path("runs"))) > 1
            continue
        # A name in capitals stands for what the reader has.
        if reference and not reference.isupper():
            config.experiment(config.load(reference, options.overrides))


def test_there_are_commands():
    """The test above sees them, those of README first."""
    counts = [len(commands(page)) for page in PAGES]
    assert counts[0] > 10 and sum(counts) > 60


def test_files_that_pages_name_are_there():
    for page in PAGES:
        for name in re.findall(
            r"`((?:configs|benchmarks|launch|notebooks|tests|uda_jax)/[\w/.]+\.\w+)`", page.read_text()
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
