"""YAML of others: what is refused, and that it is refused wherever such YAML is read."""

import io
from pathlib import Path

import pytest
import yaml

from dltrain.config.earlier import of_checkpoint
from dltrain.config.loader import OMEGACONF, load
from dltrain.errors import CheckpointError, RecordError
from dltrain.runs.record import choices_of, read_config
from dltrain.system import yaml_text

BOMB = "\n".join(f"k{n}: &k{n} [{','.join([f'*k{n - 1}' if n else 'x'] * 9)}]" for n in range(9))
REFUSED = {
    "recursive": ("a: &a [*a]", "the alias *a stands within what it is to repeat"),
    "deep": (f"a: {'[' * 900}{']' * 900}", "more than 50 lists and mappings lie within each other"),
    "bomb": (BOMB, "its aliases repeat more than 10,000 values"),
}
refused = pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)


@refused
def test_what_would_become_too_much_is_refused(text, told):
    for loader in (yaml_text.FAST, yaml.SafeLoader):
        with pytest.raises(yaml_text.RefusedYAML) as error:
            yaml_text.load(text, loader)
        assert told in str(error.value)


@refused
def test_a_run_and_a_checkpoint_with_such_a_configuration_are_refused(tmp_path, text, told):
    (tmp_path / ".hydra").mkdir()
    for name, read in (("config.yaml", read_config), (".hydra/hydra.yaml", choices_of)):
        (tmp_path / name).write_text(text)
        with pytest.raises(RecordError, match=r"config.yaml|hydra.yaml") as error:
            read(tmp_path)
        assert told in str(error.value)
    for texts in ((text,), ("a: 1", text), (text, "a: 1")):
        with pytest.raises(CheckpointError) as refusal:
            of_checkpoint(Path("best.pt"), *texts)
        assert str(refusal.value).startswith("'best.pt' holds no configuration of a run") and told in str(refusal.value)


@pytest.mark.parametrize("text", ["a: &a {b: [1, 2]}\nc: {<<: *a, d: *a}", "&a a: *a", f"a: {'[' * 49}{']' * 49}", ""])
def test_the_rest_is_read_as_it_was(text):
    assert yaml_text.load(text) == yaml.safe_load(text)


def test_yaml_within_yaml_is_text_alone():
    with pytest.raises(CheckpointError, match="it is no mapping of keys to values"):
        of_checkpoint(Path("best.pt"), yaml.safe_dump(BOMB))


@pytest.mark.parametrize("text", ["a: 1\n\tb: 2\n", "a: |# words\n  b\n", "a: >-2#\n  b\n", "a: 1\n\ufeff\n"])
def test_the_fast_reader_of_configurations_takes_nothing_that_the_usual_one_refuses(text):
    with pytest.raises(yaml.YAMLError):
        yaml.load(text, OMEGACONF)
    with pytest.raises(yaml.YAMLError):
        load(io.StringIO(text))
