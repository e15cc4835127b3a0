"""On a real Ray: three nodes on this machine, each with a process that stores objects of its own.

Workers load torch once a connection, which takes longer than their tasks: most tests share one.
"""

import collections
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray
import torch
from conftest import comparable, tiny
from ray.cluster_utils import Cluster

from rossbench import registry
from rossbench.config.scenarios import specs_of
from rossbench.runner import cluster
from rossbench.runner import run as runner
from rossbench.store import results
from rossbench.store.maintenance import verify
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue, RossbenchError

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


@pytest.fixture(scope="module")
def nodes():
    """A head that runs nothing, and two nodes with a place each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as tasks of one CPU have
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 12}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture(scope="class")
def shared(nodes):
    """One connection."""
    with cluster.connected(nodes.address) as executor:
        yield executor


def run(scenarios, store, executor, observe=lambda news: None):
    return runner.run_suite(scenarios, store=store, device="cpu", executor=executor, observe=observe)


def assert_as_local(found, scenarios, store):
    local = runner.run_suite(scenarios, store=store, device="cpu")
    assert {name: comparable(one) for name, one in found.items()} == {
        name: comparable(one) for name, one in local.items()
    }


def slow(epochs=12, **changes):
    """Long enough to be interrupted."""
    recipe = tiny().recipe
    pretraining = dataclasses.replace(recipe.pretraining, epochs=epochs)
    return tiny(recipe=dataclasses.replace(recipe, pretraining=pretraining), train_limit=200, **changes)


class TestWithOneConnection:
    def test_records_and_audits_are_those_of_a_local_run(self, shared, tmp_path):
        """Of a suite: pretrainings and heads that scenarios share are built once, and a data set is sent once."""
        names = ("digits-low-to-low", "digits-low-to-high", "digits-low-to-low-finetuning")
        suite = [tiny(name, train_epsilons=(1,), eval_epsilons=(0, 0.5)) for name in names]
        news, before = [], set(shared.sent)
        found = run(suite, tmp_path / "ray", shared, news.append)
        splits = [what for place, what in set(shared.sent) - before if not isinstance(what, str)]
        audits = runner.audit(names[:1], executor=shared, store=tmp_path / "ray", device="cpu")
        assert_as_local(found, suite, tmp_path / "local")
        assert verify(Store(tmp_path / "ray"))[1:] == (0, [])
        done = collections.Counter(one.spec.key for one in news if one.tick is None)
        assert done == dict.fromkeys((spec.key for spec in specs_of(suite)), 1)
        fractions = [one.fraction for one in news]
        assert fractions == sorted(fractions)
        assert fractions[-1] == pytest.approx(1)
        assert {one.spec.stage for one in news if one.tick} >= {"pretrain"}  # live
        assert list((tmp_path / "ray" / "locks").iterdir()) == []
        halves = ("digits-low", "digits-high")
        assert sorted(splits) == sorted(
            (half, *split) for half in halves for split in (("train", 60, 16), ("test", 40, 16))
        )
        theirs = runner.audit(names[:1], store=tmp_path / "local", device="cpu")
        assert {place: one.verdicts for place, one in audits.items()} == {
            place: one.verdicts for place, one in theirs.items()
        }

    def test_other_evaluation_kinds_are_those_of_a_local_run(self, shared, tmp_path):
        scenario, kinds = tiny(train_epsilons=(1,), eval_epsilons=(0, 0.5)), ["features", "knn", "minimal,steps=5"]
        measured = []
        for place, more in (("ray", {"executor": shared}), ("local", {})):
            runner.run_suite([scenario], store=tmp_path / place, device="cpu", kinds=kinds, **more)
            (matrix,) = results.load(Store(tmp_path / place), ["digits"])
            measured.append({key: (one.rows, one.summary) for key, one in matrix.measures.items()})
        assert len(measured[0]) == 3
        assert measured[0] == measured[1]

    def test_what_a_local_run_had_begun_goes_on_there(self, shared, tmp_path):
        scenario, news = slow(train_epsilons=(0,), eval_epsilons=(0,)), []

        class Killed(BaseException):
            pass

        def kill(news):
            if news.tick and news.tick.position == "epoch 6/12":
                raise Killed

        with pytest.raises(Killed):
            runner.run(scenario, store=tmp_path, device="cpu", observe=kill)
        found = run([scenario], tmp_path, shared, news.append)
        assert next(one for one in news if one.tick).tick.resumed
        assert_as_local(found, [scenario], tmp_path / "local")

    def test_a_task_that_fails_is_named_and_the_rest_is_done(self, shared, tmp_path, own_registry):
        """A planted divergence: of one scenario's pretraining; the other's cells are all there."""
        good = tiny("digits-low-to-low", train_epsilons=(0,), eval_epsilons=(0,))
        broken = dataclasses.replace(
            good.recipe, pretraining=dataclasses.replace(good.recipe.pretraining, learning_rate=1e30, epochs=3)
        )
        bad = dataclasses.replace(good, name="bad", recipe=broken, eval_epsilons=(0, 0.5))
        said = "1 could not be built, all else is stored: pretrain digits-low ε=0: exp"
        with pytest.raises(RossbenchError, match=said):
            run([bad, good], tmp_path, shared)
        store = Store(tmp_path)
        assert all(cell in store for cell in good.cells.values())
        assert not any(cell.finetune.pretrain in store for cell in bad.cells.values())
        assert list((tmp_path / "locks").iterdir()) == []

    def test_scenarios_and_attacks_of_ones_own_are_known_there(self, shared, tmp_path, own_registry):
        def darker(model, images, labels, epsilon, attack):
            return (images - epsilon / images[0].numel() ** 0.5).clamp(0, 1)

        registry.register_attack("darker", darker)
        recipe = tiny().recipe
        attack = dataclasses.replace(recipe.evaluation.attack, name="darker")
        recipe = dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, attack=attack))
        registry.register(dataclasses.replace(tiny(train_epsilons=(0,)), name="mine", recipe=recipe))
        changed = dataclasses.replace(registry.get("mine"), test_limit=30)
        found = run([changed], tmp_path / "ray", shared)
        assert found["mine"][0, 0, 0.5].deviations == {"test_limit": (30, 40)}
        assert_as_local(found, [changed], tmp_path / "local")

    def test_a_node_that_is_lost_costs_its_running_task_only(self, nodes, shared, tmp_path):
        """All places are at work when one is taken away with all that it holds; its task is done again."""
        victim = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        scenario, news, lost = slow(train_epsilons=(0, 0.5, 1), eval_epsilons=(0,)), [], []

        def observe(one):
            news.append(one)
            if len({other.spec.key for other in news if other.tick}) == 3 and not lost:
                lost.append(True)
                threading.Thread(target=nodes.remove_node, args=(victim,), kwargs={"allow_graceful": False}).start()

        found = run([scenario], tmp_path / "ray", shared, observe)
        assert lost
        assert_as_local(found, [scenario], tmp_path / "local")
        done = collections.Counter(one.spec.key for one in news if one.tick is None)
        assert set(done.values()) == {1}


def test_what_is_interrupted_keeps_what_is_finished_and_gives_the_locks_back(nodes, tmp_path):
    scenario = slow(train_epsilons=(0, 1), eval_epsilons=(0,))

    def stop(news):
        if news.tick is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), cluster.connected(nodes.address) as executor:
        run([scenario], tmp_path, executor, stop)
    assert len(list((tmp_path / "pretrain").iterdir())) == 1
    assert list((tmp_path / "locks").iterdir()) == []


def test_no_cluster_is_said_in_one_line():
    with pytest.raises(InvalidValue, match="expected a cluster, got"), cluster.connected("127.0.0.1:1"):
        pytest.fail("went on")


def test_a_task_that_fits_no_node_is_refused(nodes):
    said = "expected a node with 1 CPUs and 4 GPUs for a task, got"
    with pytest.raises(InvalidValue, match=said), cluster.connected(nodes.address, gpus=4):
        pytest.fail("went on")


OPTIONS = "--train-eps=0 --eval-eps=0,0.5 --epochs=2 --finetune-epochs=2 --train-limit=60 --test-limit=40 --device=cpu"
OPTIONS += " --set pretraining.batch_size=20 --set finetuning.batch_size=20"


def test_a_command_line_runs_on_nodes_that_need_no_folder_of_the_machine_that_has_the_store(nodes, tmp_path):
    """Where the system allows it the store is on a file system that only the submitting process sees."""
    hidden, copy = tmp_path / "hidden", tmp_path / "copy"
    hidden.mkdir()
    shell, mount = ["unshare", "-m", "bash", "-c"], f"mount -t tmpfs none {hidden}"
    hides = shutil.which("unshare") and not subprocess.run([*shell, mount], capture_output=True).returncode
    command = f"{sys.executable} -m rossbench run digits {OPTIONS} --ray {nodes.address} --out {hidden}/store"
    command += f" && cp -r {hidden}/store {copy}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*shell, f"{mount} && {command}"] if hides else ["bash", "-c", command],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("pretrain digits ε=0  done in", "audit digits → digits ε=0  done in", "Top-1 accuracy"):
        assert line in done.stdout
    assert not hides or list(hidden.iterdir()) == []
    one = tiny(train_epsilons=(0,))
    found, local = (runner.run(one, store=root, device="cpu") for root in (copy, tmp_path / "local"))
    for record in [*found.values(), *local.values()]:
        for stage in record.provenance.values():
            del stage["git_dirty"], stage["git_commit"]  # somebody may be at work on the checkout
    assert comparable(found) == comparable(local)
