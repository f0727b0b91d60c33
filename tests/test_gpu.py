"""PyTorch's own CUDA code, and ours on it, without a GPU: see tests/fake_gpu/runtime.c.

What is real: which device each tensor is on, which kernels are launched and how often, copies,
waits, allocations, the backend of a collective. What is not: every number, all of which are 0.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu.build import build, environment, possible
from norm_layers import ONE_OF_EACH_KIND
from pytorch_lightning.plugins.environments import SLURMEnvironment

from msngan.bench.loops import PRODUCT
from msngan.gan import GAN
from msngan.losses import LOSSES, PENALTIES
from msngan.networks.finite import ROWS, FiniteWatch
from msngan.networks.step_graph import WARM_UP
from msngan.norms.classic import BATCH_COUPLED
from msngan.norms.estimate import following, leading
from msngan.runs.folder import Diverged
from msngan.training.launch import Together, World

TESTS = Path(__file__).parent
on_gpu = [
    pytest.mark.slow,
    pytest.mark.skipif(not possible(), reason="needs gcc and a CUDA build of torch"),
]
# What a step at width 8 and batches of 8 asks of a GPU: kernels, library calls and copies. Of the
# two calls of cuSOLVER in a norm's step each factors all layers' matrices.
WORK = {
    ("none", "joint"): 275,
    ("spectral", "joint"): 455,
    ("mean_spectral", "joint"): 490,
    ("mean_spectral", "separate"): 620,
    ("batch", "joint"): 220,
}
KINDS = ("LAUNCH", "BLAS", "CUDNN", "SOLVER", "MEMSET", "D2D")  # of work
SMALL = ["--model.width", "8", "--data.batch_size", "8", "--scores.runs", "1"]
SMALL += ["--scores.samples", "50", "--dynamics.every", "1", "--health.every", "1"]
Ran = subprocess.CompletedProcess[str]


class Machine:
    """Runs Python in a folder of its own: with a fake GPU, or without any."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.folder, self._library = folder, library

    def run(self, *arguments: str, gpu: bool = True, **more: str) -> Ran:
        clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        clean |= {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
        clean |= {"OMP_NUM_THREADS": "1", "MSNGAN_CACHE": str(self.folder / "cache")}
        clean |= environment(self._library) if gpu else {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, *arguments]
        given: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300}
        return subprocess.run(command, env=clean | more, cwd=self.folder, check=False, **given)

    def msngan(self, *arguments: str, code: int = 0, module: str = "msngan", **more: Any) -> str:
        """What `msngan ...` writes to stderr."""
        done = self.run("-m", module, *arguments, **more)
        assert done.returncode == code, done.stderr[-3000:]
        return done.stderr


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    build(folder)
    return folder


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path)


OPTIONS: list[dict[str, Any]] = [
    {"mirror": True},
    {"conditional": True, "classes": 10},
    {"conditional": True, "classes": 10, "conditioning": "acgan"},
    {"penalty": "gradient", "norm": "batch", "critic_steps": 2},
    {"penalty": ["r1", "consistency", "lecam"], "penalty_every": [1, 1, 1]},
    {"precision": "bf16-mixed"},
    {"augment": {"policy": ["color", "translation", "cutout"], "target": 0.6}},
    {"generator_norm": "spectral", "optimizer": "adamw", "gradient_clip": 1.0},
    {"optimizer": "rmsprop"},
    {"optimizer": "sgd", "lr_decay": "linear"},
    {"generator": "resnet", "critic": "resnet", "attention": 16},
    *({"loss": loss} for loss in LOSSES),
    *({"penalty": penalty, "norm": "none"} for penalty in PENALTIES),
    *({"norm": norm} for norm in ONE_OF_EACH_KIND),
]
HOW = ("eager", "CUDA graph")
READS = "the step is not captured in a CUDA graph: the norm optional_spectral reads values in it"


@pytest.fixture(scope="session")
def counted(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Counter[str]]:
    """counted(norm="none"): the counts of two steps; all that is asked for runs in one process."""
    asked = [
        *({"norm": norm, "critic_batch": batch} for norm, batch in WORK),
        *OPTIONS,
        {"mirror": True, "device": "cpu"},
        {"checks": True},
        {},
        *(each | {"graph": True} for each in OPTIONS),
        {"graph": True, "penalty": "r1", "penalty_every": 2},
        {"graph": True, "reads": True},
        {"graph": True, "again": True},
    ]
    words = list(dict.fromkeys(json.dumps(each, sort_keys=True) for each in asked))
    machine = Machine(library, tmp_path_factory.mktemp("steps"))
    ran = machine.run("-m", "fake_gpu.steps", *words, FAKE_GPU_COPIES="1")
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = dict(zip(words, json.loads(ran.stdout.splitlines()[-1]), strict=True))
    return lambda **options: Counter(found[json.dumps(options, sort_keys=True)])


@pytest.fixture(scope="session")
def counted_by_two(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The same of the first of two processes."""
    words = [json.dumps({"norm": norm, "critic_batch": batch}) for norm, batch in WORK]
    machine = Machine(library, tmp_path_factory.mktemp("two"))
    two = {"FAKE_GPUS": "2", "PROCESSES": "2"}
    ran = machine.run("-m", "fake_gpu.steps", *words, FAKE_GPU_COPIES="1", **two)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = dict(zip(WORK, json.loads(ran.stdout.splitlines()[-1]), strict=True))
    return lambda *case: Counter(found[case])


def is_gated(options: dict[str, Any]) -> bool:
    return options.get("norm") == "optional_spectral"


class TestSteps:
    pytestmark = on_gpu

    @pytest.mark.parametrize(("norm", "critic_batch"), WORK)
    def test_a_step_has_a_budget_of_work_and_waits_for_nothing(self, counted, norm, critic_batch):
        found = counted(norm=norm, critic_batch=critic_batch)
        assert sum(found[kind] for kind in KINDS) <= 2 * WORK[norm, critic_batch], found
        assert not [kind for kind in ("WAIT", "H2D", "D2H", "MALLOC") if found[kind]], found

    @pytest.mark.parametrize(("norm", "critic_batch"), WORK)
    def test_of_two_processes_none_waits_and_each_layer_exchanges_its_statistics_once(
        self, counted_by_two, norm, critic_batch
    ):
        found = counted_by_two(norm, critic_batch)
        assert not [kind for kind in ("WAIT", "H2D", "D2H", "MALLOC") if found[kind]], found
        gan = GAN(width=8, size=32, norm=norm)
        layers = {
            name: sum(isinstance(part, BATCH_COUPLED) for part in getattr(gan, name).modules())
            for name in ("generator", "critic")
        }
        # Passes of the critic in its update, then in the generator's; each has two directions.
        passes = (1 if critic_batch == "joint" else 2) + 1
        exchanges = 2 * passes * layers["critic"] + 3 * layers["generator"]
        exchanges += 2 + 2  # logits, and gradients, of each update
        assert found["NCCL"] == 2 * exchanges, found

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_no_option_makes_a_step_wait_or_copy_more_than_once(self, counted, options):
        found = counted(**options)
        waits = 2 if is_gated(options) else 0  # the values of all gates, read at once
        assert (found["WAIT"], found["D2H"]) == (waits, waits), found
        assert found["H2D"] <= 2, found

    def test_images_that_stay_on_the_cpu_are_a_second_copy_without_a_wait(self, counted):
        found = counted(mirror=True, device="cpu")
        assert (found["WAIT"], found["H2D"]) == (0, 4)

    def test_a_check_for_a_collapse_is_less_than_a_step(self, counted):
        """So that one in a hundred steps is less than a hundredth of the time of all."""
        step, both = (
            sum(counted(**given)[kind] for kind in KINDS) for given in ({}, {"checks": True})
        )
        assert both < 2 * step, (step, both)

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_a_step_is_one_graph_and_a_few_launches_or_says_why_not(self, counted, options):
        found = counted(**options, graph=True)
        said = [name for name in found if name.startswith("the step")]
        if is_gated(options):
            assert said == [f"{READS}; training goes on without"]
            return
        assert (said, found["GRAPH"], found["WAIT"]) == ([], 2, 0), found
        assert found["BLAS"] == found["CUDNN"] == found["SOLVER"] == 0, found
        assert found["LAUNCH"] + found["D2D"] <= 2 * 40, found

    def test_steps_of_two_forms_are_captured_apart(self, counted):
        found = counted(graph=True, penalty="r1", penalty_every=2)
        assert found["GRAPH"] == 2  # one of steps without the penalty, and the first of those with

    def test_a_second_fit_of_a_gan_does_not_replay_the_graph_of_the_first(self, counted):
        found = counted(graph=True, again=True)
        assert found["GRAPH"] == 0  # it would train the weights where they lay before
        assert found["CUDNN"] > 0

    def test_a_step_that_reads_a_value_is_played_without_a_graph_and_says_so(self, counted):
        found = counted(graph=True, reads=True)
        (said,) = (name for name in found if name.startswith("the step"))
        assert "fake error 900" in said
        assert said.endswith("training goes on without")
        assert found["GRAPH"] == 0
        assert found["CUDNN"] > 0


class TestRuns:
    pytestmark = on_gpu

    def test_a_whole_run_goes_on_elsewhere_and_back_and_says_so(self, machine):
        given = ["--config", "digits_msn", "--run", "mine", *SMALL, "--steps", "3"]
        scored = {"module": "fake_gpu.scored"}
        machine.msngan("fit", *given, "--trainer.accelerator", "gpu", **scored)
        about = json.loads((machine.folder / "checkpoints/mine/environment.json").read_text())
        assert (about["device"], about["gpu"]) == ("cuda", "fake GPU")
        assert (about["cuda"]["capability"], about["cuda"]["cudnn"]) == ("9.0", 92400)
        cpu = ["resume", "mine", "--steps", "5", "--trainer.accelerator", "cpu"]
        said = "device: cuda -> cpu; the run continues, not exactly"
        assert said in machine.msngan(*cpu, gpu=False)
        back = ["resume", "mine", "--steps", "7", "--trainer.accelerator", "auto"]
        assert "device: cpu -> cuda" in machine.msngan(*back, **scored)
        lines = (machine.folder / "checkpoints/mine/scores.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == 7

    def test_a_run_in_half_precision_is_sampled_without_a_gpu(self, machine):
        given = ["--config", "digits_msn", "--run", "mine", *SMALL, "--steps", "2"]
        given += ["--trainer.precision", "bf16-mixed", "--trainer.accelerator", "gpu"]
        machine.msngan("fit", *given, module="fake_gpu.scored")
        machine.msngan("sample", "mine", "--out", "x.png", gpu=False)
        assert (machine.folder / "x.png").is_file()

    def test_a_classifier_trains_with_crops_and_mirrored_images(self, machine):
        given = [
            "--config",
            "digits_cnn3_msn",
            "--run",
            "mine",
            "--data.crop",
            "2",
            "--epochs",
            "1",
        ]
        given += ["--data.mirror", "true", "--trainer.accelerator", "gpu"]
        assert "done: run mine" in machine.msngan("fit", *given)

    @pytest.mark.parametrize(
        "words",
        [
            "--config digits_cond --steps 2 --model.penalty [gradient,dragan,lecam,consistency]"
            " --augment.policy [color,translation,cutout] --samples.every 1 --data.mirror true",
            "--config digits_cnn3_msn --epochs 1 --data.crop 2 --data.validation 900",
        ],
        ids=["gan", "classifier"],
    )
    def test_a_run_makes_no_float64_there_and_does_what_apple_s_mps_can(self, machine, words):
        given = [*words.split(), "--dynamics.every", "1", "--health.every", "1", "--run", "mine"]
        given += ["--dynamics.smoothness", "true"]
        given += SMALL[:-4] if "cond" in words else []
        given += ["--trainer.accelerator", "gpu", "--trainer.cuda_graph", "off"]
        done = machine.run("-m", "fake_gpu.operations", "fit", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout.splitlines()[-1]) == {"float64": [], "missing": []}

    def test_two_gpus_train_one_run(self, machine):
        given = ["--config", "digits_msn", "--run", "mine", *SMALL, "--scores.enabled", "false"]
        given += ["--trainer.accelerator", "gpu", "--trainer.devices", "2", "--steps", "2"]
        assert "done: run mine" in machine.msngan("fit", *given, FAKE_GPUS="2")

    @pytest.mark.soak
    def test_tasks_of_slurm_that_see_one_gpu_each_train_one_run(self, machine):
        given = ["--config", "digits_msn", "--run", "mine", *SMALL, "--scores.enabled", "false"]
        given += ["--trainer.accelerator", "gpu", "--trainer.devices", "2", "--steps", "2"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        job = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "JOB_ID": "7", "JOB_NAME": "train"}
        job |= {"NODELIST": "localhost", "NNODES": "1", "NODEID": "0"}
        shared = {f"SLURM_{name}": value for name, value in job.items()}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

        def task(rank: str) -> str:
            return machine.msngan("fit", *given, SLURM_PROCID=rank, SLURM_LOCALID=rank, **shared)

        with ThreadPoolExecutor() as pool:
            assert "done: run mine" in "".join(pool.map(task, ("0", "1")))

    def test_a_full_gpu_is_one_line_with_what_to_lower(self, machine):
        given = ["--config", "digits_msn", "--model.width", "64", "--data.batch_size", "512"]
        given += ["--trainer.accelerator", "gpu", "--scores.enabled", "false", "--steps", "1"]
        shown = machine.msngan("fit", *given, code=1, FAKE_GPU_FREE="300").splitlines()
        assert "Traceback" not in " ".join(shown)
        assert "the memory of cuda:0 is full after step 0" in shown[-1]
        assert "lower --data.batch_size or --model.width" in shown[-1]


@pytest.fixture(scope="session")
def bench(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(record, what was printed, the folder) of a benchmark there."""
    folder = tmp_path_factory.mktemp("bench")
    given = ["--device", "gpu", "--norms", "mean_spectral,optional_spectral", "--width", "8"]
    given += ["--batch", "8", "--rounds", "1", "--steps", "5"]
    given += ["--output", "x.json", "--plot", "x.png", "--format", "md"]
    ran = Machine(library, folder).run("-m", "fake_gpu.bench", "bench", "step", *given)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "CUPTI" not in ran.stderr
    assert "LOCAL_RANK" not in ran.stderr
    return json.loads((folder / "x.json").read_text()), ran.stdout.splitlines(), folder


class TestBench:
    pytestmark = on_gpu

    def test_each_recipe_is_timed_by_events_eager_and_as_a_graph(self, bench):
        record, _, folder = bench
        rows = {row["name"]: row for row in record["results"]}
        norms = ("mean_spectral", "optional_spectral")
        made = [f"{norm}, float32, channels_last, {how}" for norm in norms for how in HOW]
        eager, graph, other, refused = made
        assert [*rows] == ["plain loop", eager, graph, other, refused]
        assert (rows[refused]["throughput"], rows[refused]["seconds"]) == (None, [])
        assert rows[refused]["not_captured"] == f"{READS}; training goes on without"
        for name in ("plain loop", eager, graph, other):
            row = rows[name]
            assert row["seconds"] == [0.025 / 5]  # any two events are 25 ms apart
            assert row["images_per_second"] == 8 / 0.005
            assert (row["launches"], row["waits"]) == (None, None)  # the profiler sees no calls
            assert len(row["launching_seconds"]) == 1
            assert min(row["launching_seconds"]) > 0
            (product,) = record["products"]["float32"]
            peak = 2 * PRODUCT**3 / product
            assert row["share_of_peak"]["median"] == pytest.approx(row["flops"] / 0.005 / peak)
            assert ("recording_seconds" in row) == (name == graph)
        assert min(rows[graph]["recording_seconds"]) > 0
        assert rows[graph]["flops"] == rows[eager]["flops"] > 0
        assert (folder / "x.png").is_file()

    def test_the_record_has_the_whole_command_and_the_environment(self, bench):
        record, _, _ = bench
        assert record["command"].startswith("msngan bench step --device gpu --norms mean_spectral")
        assert record["hardware"]["gpu"] == "fake GPU"
        assert record["clock"] == "events on the GPU's stream"
        about = record["cuda"]
        assert about["cuda"] == torch.version.cuda
        assert about["cudnn"] == 92400
        assert {"driver", "float32_convolutions", "float32_products", "cudnn_benchmark"} <= {*about}
        assert about["variables"]["TORCH_CUDNN_V8_API_DISABLED"] == "1"
        assert (record["discarded_steps"], record["measured_steps"]) == (20, 5)

    def test_the_table_shows_what_a_gpu_has_and_says_why_a_row_has_nothing(self, bench):
        _, lines, _ = bench
        shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
        columns, _, *rows = shown
        assert columns[4:] == ["of peak", "images/s", "launches", "waits", "host", "recording"]
        assert {tuple(row[5:8]) for row in rows[:-1]} == {("1,600", "-", "-")}
        assert rows[-1][1:] == ["-"] * 9
        assert any(f"CUDA graph: {READS}" in line for line in lines)

    def test_each_measurement_records_a_graph_and_nothing_waits_between_the_events(self, bench):
        graphs, waits = json.loads(bench[1][-1])
        # A round that is not kept, one that is, and one to count calls: 25, 25 and 22 steps.
        assert graphs == 25 + 25 + 22 - 3 * WARM_UP
        assert waits == [1] * 6 + [0] * 3


@pytest.mark.quick
@pytest.mark.parametrize("one_each", [False, True])
def test_a_process_trains_on_its_own_gpu_or_on_the_one_that_it_sees(one_each):
    environment = SLURMEnvironment(auto_requeue=False)
    environment.local_rank = lambda: 1
    strategy = Together(World(2, environment=environment, one_each=one_each))
    seen = ["cuda:0"] if one_each else ["cuda:0", "cuda:1"]
    strategy.parallel_devices = [torch.device(each) for each in seen]
    assert strategy.num_processes == 2
    assert str(strategy.root_device) == seen[-1]


@pytest.mark.quick
class TestFiniteWatch:
    def test_a_value_on_a_cpu_is_looked_at_in_its_step(self):
        watch = FiniteWatch("something else.")
        watch.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 0)
        with pytest.raises(Diverged, match=r"at step 2: b nan\. .* Try something else") as raised:
            watch.add({"a": torch.tensor(1.0), "b": torch.tensor(float("nan"))}, 1)
        assert raised.value.step == 2

    @pytest.mark.parametrize("checked", [0, 3, ROWS - 1, ROWS, ROWS + 3])
    def test_kept_values_name_the_first_step_that_was_wrong(self, checked):
        watch = FiniteWatch("something else.")

        def train():
            for step in range(3 * ROWS):
                if step == checked:
                    watch.check()
                wrong = "inf" if step >= checked + 5 else "2"
                one = {"a": torch.tensor(1.0), "b": torch.tensor(float(wrong))}
                watch.keep(one if step % 2 else one | {"c": torch.tensor(3.0)}, step)

        with pytest.raises(Diverged, match=f"at step {checked + 6}: b inf") as raised:
            train()
        assert raised.value.figures["a"] == 1
        watch.check()  # said once


@pytest.mark.quick
class TestBlocksOnAGPU:
    """What a GPU computes instead of decompositions: here on a CPU, by the same operations."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("kind", ["random", "low rank", "steep", "zero"])
    def test_a_block_stays_orthonormal_and_follows_the_span(self, monkeypatch, dtype, kind):
        monkeypatch.setattr("msngan.norms.estimate.looks", lambda x: False)
        draw = torch.Generator().manual_seed(0)
        a = torch.randn(48, 80, generator=draw, dtype=dtype)
        if kind == "low rank":
            a = a[:, :3] @ torch.randn(3, 80, generator=draw, dtype=dtype)
        if kind == "steep":
            a = a * torch.logspace(0, -6, 80, dtype=dtype)
        if kind == "zero":
            a = torch.zeros_like(a)
        x = torch.linalg.qr(torch.randn(48, 16, generator=draw, dtype=dtype))[0].mT[None]
        eps = torch.finfo(dtype).eps
        for _ in range(60):
            x = following(x, a @ (x @ a).mT, decompose=False)
            assert torch.allclose(x @ x.mT, torch.eye(16, dtype=dtype), atol=50 * eps)
        value, vector = leading((x @ a) @ (x @ a).mT)
        true = torch.linalg.svdvals(a.double())[0].square()
        assert float(value) == pytest.approx(
            float(true), rel=1e-4 if dtype == torch.float32 else 1e-9
        )
        assert float(vector.norm()) == pytest.approx(0.0 if kind == "zero" else 1.0, rel=1e-5)
