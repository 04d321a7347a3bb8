"""Modes and hooks while several threads call one network."""

import threading

import torch
from torch import nn

from openset.networks.watch import bare, evaluating, listening, run


def modes(network):
    return [module.training for module in network.modules()]


def test_the_first_call_sets_the_mode_and_the_last_restores_it():
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()).eval())
    before = modes(network)
    first, second = evaluating(network), evaluating(network)
    with first:
        second.__enter__()
    assert not any(modes(network)), "a call that goes on must not see the end of another"
    second.__exit__(None, None, None)
    assert modes(network) == before


def test_a_network_in_evaluation_mode_is_not_written_to():
    class Frozen(nn.Dropout):
        def __setattr__(self, name, value):
            assert name != "training" or "training" not in self.__dict__ or value
            super().__setattr__(name, value)

    network = Frozen()
    network.__dict__["training"] = False
    with evaluating(network):
        pass


def test_a_listener_hears_only_its_own_thread():
    network, heard = nn.Identity(), []

    def elsewhere():
        network(torch.zeros(1))

    with listening([(network, lambda x, output: heard.append(x))]):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert heard == []
        network(input=torch.ones(1))
    assert heard == [torch.ones(1)]
    assert not network._forward_hooks


def test_what_compiles_or_spreads_a_network_is_taken_off():
    network = nn.Linear(2, 2)
    assert bare(nn.DataParallel(torch.compile(network, backend="eager"))) is network
    network.compile(backend="eager")
    heard = []
    with listening([(network, lambda x, output: heard.append(x))]):
        run(network, torch.zeros(1, 2))
    assert len(heard) == 1


def test_tables_that_another_thread_reads_are_never_changed():
    network, own = nn.Linear(1, 1), []
    handle = network.register_forward_hook(lambda *told: own.append(told))
    table, flags = network._forward_hooks, network._forward_hooks_with_kwargs
    before = dict(table)
    with listening([(network, lambda x, output: None)]):
        first = network._forward_hooks
        seen = dict(first)
        with listening([(network, lambda x, output: None)]):
            network(torch.zeros(1))
            assert dict(first) == seen
        assert dict(table) == before
    assert len(own) == 1
    assert network._forward_hooks is table
    assert network._forward_hooks_with_kwargs is flags
    handle.remove()
    assert not network._forward_hooks
