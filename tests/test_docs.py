"""README and docs: every link leads somewhere, every command is one that the library takes, every config loads."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from uda_jax import config
from uda_jax.cli.main import parsed
from uda_jax.runs import sweep

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS, ROOT / "launch" / "README.md"]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
# What begins the names of logged metrics.
METRICS = "loss|norm|update_norm|learning_rate|discriminator|teacher|mixing|speed|evaluation"


def commands(page):
    """Returns the words of every `uda` command of a page's code, without comments and with continued lines as one."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    ")]
    found = [part.strip() for line in lines for part in re.split(r"\s#\s", line)[0].split(";")]
    return [shlex.split(command)[1:] for command in found if command.startswith("uda ")]


def links(page):
    """Returns (file, anchor) of every link and picture of a page that leads into the repository; "" for no anchor."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    parts = [target.partition("#") for target in targets if not target.startswith(("http://", "https://"))]
    return [((page.parent / name).resolve() if name else page, anchor) for name, _, anchor in parts]


def anchors(page):
    """Returns the anchors of a page's headings that are the same on GitHub and in the site."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    headings = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    # GitHub keeps each space of several, Markdown's own rule none but the first, and letters of ASCII alone.
    return {re.sub(r"\s", "-", found) for found in headings if found.isascii() and not re.search(r"[-\s]{2}", found)}


def pages_of(nav) -> Iterator[str]:
    """Yields the files of the site's navigation, with its sections opened."""
    for entry in nav:
        for found in entry.values():
            yield from [found] if isinstance(found, str) else pages_of(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Pages, their headings and pictures of the repository; nothing is fetched."""
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"
        # The site holds docs/ and nothing else.
        assert page not in DOCS or target.is_relative_to(ROOT / "docs"), target


def test_anchors_are_those_of_headings(tmp_path):
    (tmp_path / "page.md").write_text("# One `two`, three\n\n```\n# no heading\n```\n\n## A & b\n\n## Où\n\ntext\n")
    assert anchors(tmp_path / "page.md") == {"one-two-three"}


def test_every_page_is_in_the_site_once():
    found = list(pages_of(SITE["nav"]))
    assert sorted(found) == [page.name for page in DOCS]
    assert found[0] == "index.md"


def test_every_page_can_be_reached_from_the_first_one():
    linked = {target for target, _ in links(ROOT / "docs" / "index.md")}
    linked |= {target for page in DOCS for target, _ in links(page) if page in linked}
    assert [page.name for page in DOCS if page not in linked and page.name != "index.md"] == []


def test_the_site_is_made_of_what_mkdocs_brings():
    """No theme or plugin of another package, and no script of another host."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [re.split(r"[>=<\[]", word)[0] for word in extras["docs"]] == ["mkdocs"]
    assert SITE["theme"]["name"] in ("mkdocs", "readthedocs") and SITE["theme"]["highlightjs"] is False
    assert not SITE.keys() & {"plugins", "extra_css", "extra_javascript"}


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


def test_fields_that_pages_set_in_passing_exist():
    """Those in text; those of whole commands are looked at above."""
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "config.md").read_text(), re.MULTILINE))
    known |= {"source", "target", "predict"}  # domains, and the function of every method
    field = r"`(?:--)?(?:config\.)?((?:method|data|train|evaluation|init_from|stages)\.[\w.]*\w)[=`]"
    found = [(page.name, path) for page in PAGES for path in re.findall(field, page.read_text())]
    assert len(found) > 60
    assert [(page, path) for page, path in found if path.rpartition(".")[2] not in known] == []


def test_metrics_that_troubleshooting_names_are_logged():
    code = "".join(path.read_text() for path in (ROOT / "uda_jax").rglob("*.py"))
    named = re.findall(rf"`((?:{METRICS})/\w+)`", (ROOT / "docs" / "troubleshooting.md").read_text())
    assert len(named) > 5
    for name in named:
        # Many are named after a loss or a network.
        whole, family = f'"{name}"', f'f"{name.partition("/")[0]}/{{'
        assert whole in code or family in code, name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
