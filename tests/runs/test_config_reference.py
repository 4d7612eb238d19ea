"""docs/config.md says what the fields say."""

from pathlib import Path

from uda_jax.runs import config_reference

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_that_of_the_fields():
    assert PAGE.read_text() == config_reference.page(), "run: python -m uda_jax.runs.config_reference > docs/config.md"


def test_sections_fields_and_names_are_on_it():
    page = config_reference.page()
    assert page.count("## Section `Domain`") == 1, "it holds itself, as what is mixed into it"
    for heading in ("## Method `plca`", "## Kind of stage `rank`", "Further fields of `deeplab_v2_vgg16`:"):
        assert heading in page
    assert "| `batch_size` | integer >= 1 | `4` | Global batch size of each domain. |" in page
    assert "num_classes" not in page
