"""SAEs and training states on disk: what is saved comes back to the bit, and what was damaged is told."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from torch import nn

from harness.builtin.saes.jumprelu import JumpReLUSAE
from harness.builtin.saes.relu import ReluSAE
from harness.builtin.saes.topk import TopKSAE
from harness.errors import CacheError, CheckpointError, UnknownNameError
from harness.interfaces.sae import SAEConfig
from harness.training import checkpoint
from harness.training.checkpoint import flatten, load_sae, load_state, sae_id, save_sae, save_state, unflatten

KINDS = {"topk": TopKSAE, "relu": ReluSAE, "jumprelu": JumpReLUSAE}


def make(kind: str = "topk", seed: int = 0, d_in: int = 4, d_sae: int = 8, **options):
    options = {"k": 2, **options} if kind == "topk" else options
    sae = KINDS[kind](SAEConfig(architecture=kind, d_in=d_in, d_sae=d_sae, options=options))
    sae.reset_parameters(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(seed + 1))
    return sae


def load(folder):
    return load_sae(folder, KINDS.__getitem__)


@pytest.mark.parametrize("kind", KINDS)
def test_an_sae_comes_back_with_the_same_id_outputs_and_memory_layout(kind, tmp_path):
    sae = make(kind)
    assert not sae.W_enc.is_contiguous()
    identity = save_sae(sae, tmp_path / "sae")
    loaded = load(tmp_path / "sae")
    assert identity == sae_id(sae) == sae_id(loaded)
    assert loaded.W_enc.stride() == sae.W_enc.stride()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(7))
    assert torch.equal(sae(x), loaded(x))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_file_holds_the_weights_in_their_documented_shapes(tmp_path):
    from safetensors.torch import load_file

    sae = make()
    save_sae(sae, tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "W_enc": (4, 8),
        "W_dec": (8, 4),
        "b_enc": (8,),
        "b_dec": (4,),
    }
    assert torch.equal(tensors["W_enc"], sae.W_enc)


def test_the_id_does_not_depend_on_the_memory_layout():
    sae, other = make(), make()
    other.W_enc = nn.Parameter(sae.W_enc.detach().clone(memory_format=torch.contiguous_format))
    assert other.W_enc.is_contiguous()
    assert sae_id(sae) == sae_id(other)


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
def test_the_id_differs_by_any_one_bit_of_any_weight(name):
    sae = make()
    before = sae_id(sae)
    flat = getattr(sae, name).data
    for place in [(0,) * flat.ndim, (-1,) * flat.ndim]:
        old = flat[place].clone()
        flat[place] = (old.view(torch.int32) ^ 1).view(torch.float32)
        assert sae_id(sae) != before
        flat[place] = old
    assert sae_id(sae) == before


def test_the_id_tells_minus_zero_from_zero():
    sae = make()
    before = sae_id(sae)
    sae.b_dec.data[0] = -0.0
    assert sae_id(sae) != before


def test_the_id_differs_by_options_architecture_and_sizes():
    ids = [
        sae_id(make()),
        sae_id(make(k=3)),
        sae_id(make("relu")),
        sae_id(make("relu", note="x")),
        sae_id(make(d_sae=9)),
        sae_id(make(seed=1)),
    ]
    assert len(set(ids)) == len(ids)


def test_an_sae_without_parameters_is_saved_too(tmp_path):
    from harness.builtin.controls.identity import IdentitySAE

    sae = IdentitySAE(SAEConfig(architecture="identity", d_in=2, d_sae=4))
    identity = save_sae(sae, tmp_path)
    assert sae_id(load_sae(tmp_path, lambda _: IdentitySAE)) == identity


def test_a_missing_folder_says_what_was_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"No saved SAE at .*nowhere: expected a folder with sae\.json"):
        load(tmp_path / "nowhere")


def test_missing_weights_are_told(tmp_path):
    save_sae(make(), tmp_path)
    (tmp_path / "sae.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no sae\.safetensors"):
        load(tmp_path)


def test_changed_weights_are_told(tmp_path):
    save_sae(make(), tmp_path)
    path = tmp_path / "sae.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="corrupt: its sha256 differs"):
        load(tmp_path)


def test_changed_options_are_told(tmp_path):
    save_sae(make(), tmp_path)
    edit_config(tmp_path, options={"k": 3})
    with pytest.raises(CheckpointError, match="weights or options differ from sae_id"):
        load(tmp_path)


def test_weights_that_do_not_fit_are_told(tmp_path):
    save_sae(make(), tmp_path)
    edit_config(tmp_path, d_in=5)
    with pytest.raises(CheckpointError, match="does not fit architecture 'topk'"):
        load(tmp_path)


@pytest.mark.parametrize("values", [{"d_in": "four"}, {"d_in": 0}, {"options": 3}, {"d_sae": None}])
def test_values_no_sae_can_have_are_told(tmp_path, values):
    save_sae(make(), tmp_path)
    edit_config(tmp_path, **values)
    with pytest.raises(CheckpointError, match="holds values no SAE can have"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"x"', '{"format": 1}'])
def test_a_config_that_is_none_is_told(tmp_path, text):
    (tmp_path / "sae.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not a saved SAE's config"):
        load(tmp_path)


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    save_sae(make(), tmp_path)
    edit_config(tmp_path, format=2)
    with pytest.raises(CheckpointError, match="format 2; this version reads 1: upgrade"):
        load(tmp_path)


def test_an_unknown_architecture_names_those_there_are(tmp_path):
    from harness.plugins import load_catalogue

    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin"})
    save_sae(make(), tmp_path)
    edit_config(tmp_path, architecture="topkk")
    with pytest.raises(UnknownNameError, match=r"SAE architecture 'topkk': known are .*Did you mean topk"):
        load_sae(tmp_path, lambda name: catalogue.sae(name).load())


def edit_config(folder, **changes):
    path = folder / "sae.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Training states


def tree_of(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {
        "slots": [{"W": torch.randn(2, 3, generator=generator).t(), "none": None, "x": 0.1, "empty": {}}],
        "generator": generator.get_state(),
        "rows": [{"a/b": 1}, []],
    }


def test_a_tree_of_tensors_comes_back():
    tree = tree_of(0)
    back = unflatten(*flatten(tree))
    assert torch.equal(back["slots"][0].pop("W"), tree["slots"][0].pop("W"))
    assert torch.equal(back.pop("generator"), tree.pop("generator"))
    assert back == tree


def test_the_newest_state_is_kept_and_comes_back(tmp_path):
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "nowhere") is None
    save_state(tmp_path, 3, tree_of(3))
    save_state(tmp_path, 12, tree_of(12))
    assert [p.name for p in tmp_path.iterdir()] == ["state-000000012"]
    step, tree = load_state(tmp_path)
    assert step == 12
    assert torch.equal(tree["slots"][0]["W"], tree_of(12)["slots"][0]["W"])


def test_a_number_survives_to_the_bit(tmp_path):
    save_state(tmp_path, 1, {"x": 0.1 + 0.2, "t": torch.tensor([1 / 3], dtype=torch.float64)})
    _, tree = load_state(tmp_path)
    assert tree["x"] == 0.1 + 0.2
    assert tree["t"].item() == 1 / 3


def test_a_damaged_state_is_removed_and_an_older_one_taken(tmp_path):
    save_state(tmp_path, 3, tree_of(3))
    (tmp_path / "state-000000003").rename(tmp_path / "kept")
    save_state(tmp_path / "other", 9, tree_of(9))
    (tmp_path / "kept").rename(tmp_path / "state-000000003")
    (tmp_path / "other" / "state-000000009").rename(tmp_path / "state-000000009")
    weights = tmp_path / "state-000000009" / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert load_state(tmp_path)[0] == 3
    assert not (tmp_path / "state-000000009").exists()


def test_a_state_that_cannot_be_written_is_told_and_the_older_one_stays(tmp_path, monkeypatch):
    save_state(tmp_path, 3, tree_of(3))

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CacheError, match=r"No space left on device.*--cache FOLDER"):
        save_state(tmp_path, 4, tree_of(4))
    assert [p.name for p in tmp_path.iterdir()] == ["state-000000003"]
    assert load_state(tmp_path)[0] == 3
