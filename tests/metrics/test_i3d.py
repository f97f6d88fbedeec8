"""I3D: the public network's size and names, padding, and errors about wrong weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hitvideo.errors import ConfigError
from hitvideo.metrics import i3d
from hitvideo.metrics.distances import frechet_distance
from hitvideo.metrics.i3d import I3D, _same, check_golden, golden_distance, load_i3d


@pytest.mark.parametrize(("size", "kernel", "stride"), [(16, 7, 2), (17, 7, 2), (9, 3, 2), (8, 2, 2), (7, 2, 2), (5, 3, 1)])
def test_padding_is_tensorflows_same(size: int, kernel: int, stride: int) -> None:
    """There are ⌈size / stride⌉ windows, and an odd zero goes behind."""
    padded = _same(torch.ones(1, 1, size, 1, 1), (kernel, 1, 1), (stride, 1, 1)).flatten()
    assert len(padded.unfold(0, kernel, stride)) == -(-size // stride)
    front, behind = int(padded.argmax()), len(padded) - size - int(padded.argmax())
    assert behind - front in (0, 1)


def test_the_public_networks_parameters() -> None:
    """12.7 M parameters in 344 tensors under the names of the public weights (58 convolutions, 57 of them with a norm)."""
    state = I3D().state_dict()
    assert sum(tensor.numel() for name, tensor in I3D().named_parameters()) == 12_697_264
    assert len(state) == 57 * (1 + 5) + 2
    assert state["Mixed_4f.b2b.conv3d.weight"].shape == (128, 32, 3, 3, 3)
    assert state["logits.conv3d.bias"].shape == (400,)


@pytest.mark.slow
def test_features_do_not_depend_on_the_source_size_of_flat_frames(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(I3D().state_dict(), tmp_path / "i3d.pt")
    model = load_i3d(tmp_path / "i3d.pt")
    flat = torch.linspace(-1, 1, 9).view(1, 1, 9, 1, 1).expand(1, 3, 9, 16, 24)
    with torch.no_grad():
        small, large = model(flat), model(F.interpolate(flat, (9, 64, 64)))
        assert small.shape == (1, 400)
        torch.testing.assert_close(small, large)
        assert not torch.equal(model(flat.flip(2)), small), "the order of frames must matter"


def test_wrong_weights_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pt: no such file.*I3D"):
        load_i3d(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt"):
        with pytest.raises(ConfigError, match=rf"{name}: .*I3D"):
            load_i3d(tmp_path / name)


@pytest.mark.slow
def test_the_golden_distance_is_that_of_eight_videos_a_set() -> None:
    torch.manual_seed(0)
    model = I3D().eval()
    with torch.no_grad():
        model.logits.conv3d.weight.mul_(1e3)  # random weights hardly tell black from white
        features = torch.stack([model(torch.full((1, 3, 30, 64, 64), value))[0] for value in (-1.0, 1.0)])
    expected = frechet_distance(*features[:, None].expand(-1, 8, -1))
    assert expected > 0
    assert golden_distance(model) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("found", "taken"), [(0.9, True), (-0.9, True), (1.1, False), (-1.1, False), (float("nan"), False)])
def test_only_weights_with_the_golden_distance_are_taken(found: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(i3d, "golden_distance", lambda _: 151.26 + found)
    if taken:
        assert check_golden(I3D(), Path("i3d.pt")) == 151.26 + found
    else:
        with pytest.raises(ConfigError, match=r"i3d\.pt: .*151\.26; give i3d_pretrained_400\.pt"):
            check_golden(I3D(), Path("i3d.pt"))


def test_a_torchscript_program_is_not_run(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "i3d_torchscript.pt"))
    with pytest.raises(ConfigError, match=r"i3d_torchscript\.pt: a TorchScript program.*i3d_pretrained_400\.pt"):
        load_i3d(tmp_path / "i3d_torchscript.pt")


def test_short_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"FVD .*\b9 frames.*\b8$"):
        I3D()(torch.zeros(1, 3, 8, 16, 16))
