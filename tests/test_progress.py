"""What the live view counts, also where a run does not begin at its beginning."""

import pytest
from test_recovery import spoiled

from dltrain.errors import TrainingError
from dltrain.runs import checkpoint
from dltrain.runs.writer import Due
from dltrain.training.progress import LiveView


class Noting(LiveView):
    """Notes where it stands when an epoch begins and behind each step."""

    def __init__(self):
        super().__init__(epochs=3, samples=32, batches=4, headline="test")
        self.begun = []
        self.steps = []

    def begin_epoch(self, epoch, batch):
        super().begin_epoch(epoch, batch)
        self.begun.append([task.completed for task in self.progress.tasks])

    def step(self, total):
        super().step(total)
        self.steps.append(self._step)


def noting(folder, *steps, **options):
    return spoiled(folder, "gradient", *steps, view=Noting(), epochs=3, **options)


def test_the_bars_count_steps_and_epochs(tmp_path):
    trainer = noting(tmp_path)
    trainer.fit()
    assert trainer.view.begun == [[0, 0], [4, 1], [8, 2]]
    assert trainer.view.steps == list(range(1, 13))
    assert [task.completed for task in trainer.view.progress.tasks] == [12, 3]


@pytest.mark.parametrize("step", [4, 6, 8])
def test_the_bars_go_on_where_the_run_does(tmp_path, step):
    stopped = noting(tmp_path, step + 1, due=Due(every_n_epochs=None, every_n_steps=1))
    with pytest.raises(TrainingError):
        stopped.fit()
    stopped.checkpoints.settle()
    resumed = noting(tmp_path)
    resumed.load_state_dict(checkpoint.load(tmp_path / "last.pt")["trainer"])
    resumed.fit()
    assert resumed.view.begun[0] == [step, (step - 1) // 4]  # an epoch ends with its validation
    assert resumed.view.steps == list(range(step + 1, 13))


def test_the_bars_go_back_with_a_rollback(tmp_path):
    trainer = noting(tmp_path, 7, on_nonfinite="rollback")
    real = trainer.load_state_dict

    def mended(*arguments, **keywords):
        trainer.model[2].steps = ()
        real(*arguments, **keywords)

    trainer.load_state_dict = mended
    trainer.fit()
    assert trainer.view.begun == [[0, 0], [4, 1], [4, 1], [8, 2]]
    assert trainer.view.steps == [*range(1, 7), *range(5, 13)]
