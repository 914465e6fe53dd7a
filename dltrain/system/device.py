"""Device, precision, seeds and threads: what is global to the process is set here, and restored.

torch runs without its compiler until something is compiled.
"""

import contextlib
import importlib
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from dltrain.errors import ConfigError
from dltrain.system import process
from dltrain.system.machine import core_count

# Multiply-adds of a forward pass that are worth one more thread. Measured on two cores: an LSTM with 26 million a step,
# counted by half, gains a tenth from the second, and is three times slower beside another; LeNet with 42 gains half.
_WORK_OF_A_THREAD = 2**25
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device that ``name`` stands for: ``auto`` takes cuda, else mps, else cpu.

    Where several processes share a run, each has its GPU.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    together = process.is_worker()
    if name == "auto":
        has_mps = torch.backends.mps.is_available() and not together
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if together and name not in ("cuda", "cpu"):
        raise ConfigError([f"device='{name}': processes that share a run take device=cuda, each its own, or cpu"])
    if together and name == "cuda":
        name = f"cuda:{process.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError([f"device='{name}' is none of auto, cpu, cuda, cuda:N, mps"]) from error
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= available.get(device.type, 0):
        if together:
            raise ConfigError([f"'{name}': there are {available['cuda']} GPUs here; start at most a process for each"])
        raise ConfigError([f"device='{name}': this machine has no such device; device=auto takes what there is"])
    return device


@dataclass(frozen=True)
class Precision:
    """Mixed precision: ``dtype`` is what autocast computes in, ``None`` leaves everything in float32."""

    device: torch.device
    dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss for float16, whose small gradients would vanish; passes everything through otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def pick_precision(name: str, device: torch.device) -> Precision:
    """``auto`` is bf16 on a GPU that computes in it, float32 elsewhere."""
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return Precision(device, _DTYPES[name])


def available_threads() -> int:
    """Threads that this process may use on the CPU: its share of the cores, at most ``OMP_NUM_THREADS``."""
    most = os.environ.get("OMP_NUM_THREADS", "")
    cores = core_count() // process.local_size()
    return max(1, min(cores, int(most)) if most.isdecimal() and int(most) else cores)


def threads_of_run(recorded: int | str) -> int:
    """The threads that a run has recorded, or as many as there are; all if an earlier version recorded none."""
    return available_threads() if recorded == "auto" else min(int(recorded), available_threads())


def pick_threads(threads: int | str, work: int, device: torch.device) -> int:
    """How many threads ``trainer.threads`` stands for: itself, or for ``auto`` as many as the work of a step can feed.

    ``work`` is the number of multiply-adds of a forward pass over a batch. No measured time enters, so that the same
    command computes the same bits.
    """
    if threads != "auto":
        return int(threads)
    on_cpu = device.type == "cpu"
    return min(available_threads(), 1 + work // _WORK_OF_A_THREAD) if on_cpu else available_threads()


@contextlib.contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Within, ``count`` threads compute on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def process_state(seed: int, deterministic: bool, tf32: bool = False, threads: int | str = "auto") -> Iterator[None]:
    """Seed Python, NumPy and torch on all devices; with ``deterministic`` refuse operations that are not.

    ``threads`` compute on the CPU; with ``auto`` a single one, until there is a network to pick them for.
    ``tf32`` lets a GPU multiply float32 matrices in its faster format of 10 bits (convolutions do so by default).

    What was set before is restored at the end, threads and random states included, so that a run changes neither the
    next run of its process nor what draws the jobs of a sweep.
    """
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    warns_before = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark_before = torch.backends.cudnn.benchmark
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 and torch.cuda.is_available() else matmul)
    if deterministic:
        # cuBLAS reads it once, when it is first used; without it, its products are not repeatable.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _set_deterministic(deterministic, benchmark=not deterministic)
    try:
        with random_states_restored(), computing_threads(1 if threads == "auto" else int(threads)):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        _set_deterministic(deterministic_before, benchmark_before, warns_before)
        torch.set_float32_matmul_precision(matmul)


@contextlib.contextmanager
def random_states_restored() -> Iterator[None]:
    """Within, Python, NumPy and torch may draw; afterwards their random states are restored."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if of_gpus:
            torch.cuda.set_rng_state_all(of_gpus)


def seed_apart(seed: int, step: int, rank: int) -> None:
    """Seed torch differently in each process, from optimizer step ``step`` on."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def random_state() -> dict[str, Any]:
    """The state of every random generator of the process, in plain types and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`random_state` returned; states of devices that this machine lacks are left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    if not 0 <= position <= len(keys):  # NumPy would read beyond them in memory
        raise ValueError("the state of NumPy's generator is none")
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    for index, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda.cpu(), index)
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


# Of torch's allocator for CPUs, oneDNN (whose primitives cannot be created without memory), C++, and Apple's GPUs.
_NO_MEMORY = ("can't allocate memory", "could not create a primitive", "std::bad_alloc", "MPS backend out of memory")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the CPU, had no memory left."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in text for words in _NO_MEMORY)


def _set_deterministic(deterministic: bool, benchmark: bool, warns: bool = False) -> None:
    # torch imports its compiler to note the mode there: more than two seconds that only a change is worth.
    now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if (deterministic, warns) != now:
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
    torch.backends.cudnn.benchmark = benchmark


def fits(nbytes: int, device: torch.device, share: float = 0.5) -> bool:
    """Whether data of ``nbytes`` may lie on the device: always on the CPU, within a share of a GPU's free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return nbytes <= share * free


_COMPILER = "torch._dynamo"


class _PartOfCompiler:
    """Stands for a submodule of ``torch._dynamo`` with the ``functions`` that are called outside of a compilation."""

    def __init__(self, name: str, **functions: Callable[[], Any]):
        self.__name__ = name
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_imported_compiler(), self.__name__), name)


class _DeferredCompiler(ModuleType):
    """Stands for ``torch._dynamo`` until more of it is used than optimizers and process groups do.

    torch imports its compiler, which takes longer than torch itself, when the first optimizer is made, only to call
    functions that do nothing outside of a compilation. Any other attribute, a submodule included, imports the real
    module and replaces this one.
    """

    utils = _PartOfCompiler("utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")  # torch's default
    trace_rules = _PartOfCompiler("trace_rules", clear_lru_cache=lambda: None)  # there is nothing in it yet

    def graph_break(self, msg: str = "") -> None:
        """Nothing is being compiled, so there is no graph to break."""

    def disable(self, fn: Callable[..., Any], recursive: bool = True, *, wrapping: bool = True) -> Callable[..., Any]:
        """Nothing is being compiled, so there is nothing to keep ``fn`` out of."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` looks at every module's __file__, at any moment
            raise AttributeError(name)
        return getattr(_imported_compiler(), name)


def _imported_compiler() -> Any:
    """The real module, which replaces the one that stands for it."""
    if isinstance(sys.modules.get(_COMPILER), _DeferredCompiler):
        del sys.modules[_COMPILER]
        torch._dynamo = importlib.import_module(_COMPILER)
    return sys.modules[_COMPILER]


def defer_compiler() -> None:
    """Keep torch from importing its compiler before it is used; a no-op where that has happened."""
    if _COMPILER not in sys.modules:
        sys.modules[_COMPILER] = torch._dynamo = _DeferredCompiler(_COMPILER)
