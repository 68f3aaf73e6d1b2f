"""A TorchScript file that could write files is refused before torch sees it; ordinary networks pass unchanged."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import nn

from medpipe.errors import BundleError
from medpipe.inference.torchscript import read_torchscript


class _Writes(nn.Module):
    """Maps a file for writing whenever it is run."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        there = torch.from_file(self.path, shared=True, size=64, dtype=torch.uint8)
        there.fill_(66)
        return x + there.float().mean() * 0


class _WritesWhenLoaded(nn.Module):
    """The same as soon as it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.training = False
        self.read = 0

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        there = torch.from_file(self.path, shared=True, size=64, dtype=torch.uint8).fill_(66)
        self.read = int(there[0].item())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def saved(network: nn.Module, path: Path, example: torch.Tensor | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor; tracing warns of sizes
        made = torch.jit.script(network) if example is None else torch.jit.trace(network, example)  # type: ignore[no-untyped-call]
        made.save(path)
    return path


def load(content: io.BytesIO | Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network: nn.Module = torch.jit.load(content)  # type: ignore[no-untyped-call]
    return network


def rewritten(path: Path, put: dict[str, str] | None = None, **code: str) -> Path:
    """The file with lines put in before its network's `return`, or members added."""
    new = path.with_name("rewritten.ts")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as out:
        for name in old.namelist():
            text = old.read(name)
            if name.endswith("code/__torch__.py") or ("/code/__torch__/" in name and name.endswith(".py")):
                text = text.replace(b"    return ", code.get("line", "").encode() + b"    return ", 1)
            out.writestr(name, text)
        for name, added in (put or {}).items():
            out.writestr(f"{old.namelist()[0].split('/')[0]}/{name}", added)
    return new


class _Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.mark.parametrize("kind", [_Writes, _WritesWhenLoaded])
def test_a_network_that_writes_a_file_never_runs(kind: type[nn.Module], tmp_path: Path) -> None:
    victim = tmp_path / "victim.bin"
    victim.write_bytes(b"A" * 64)
    attack = saved(kind(str(victim)), tmp_path / "attack.ts")
    victim.write_bytes(b"A" * 64)
    with pytest.raises(BundleError, match="reach files or the network") as refusal:
        read_torchscript(attack)
    assert "\n" not in str(refusal.value)
    assert victim.read_bytes() == b"A" * 64
    load(attack)(torch.zeros(1, 1, 4, 4))
    assert victim.read_bytes() == b"B" * 64, "so would torch have done by itself"


@pytest.mark.parametrize(
    "line",
    [
        't = torch.from_file("victim", True, 64, dtype=0)',
        'torch.save(x, "victim")',
        'ops.aten.save(x, "victim")',
        'a = torch\n    a.save(x, "victim")',
        'getattr(torch, "save")(x, "victim")',
        'getattr(torch, "sa" "ve")(x, "victim")',
        'getattr(torch, "s\\141ve")(x, "victim")',
        "getattr(torch, 'sav\\145')(x, \"victim\")",
        'getattr(getattr(ops, "aten"), "s\\141ve")(x, "victim")',
        'getattr(self, """save""")(x, "victim")',
        "y = ops.image.read_file(x)",
        "y = ops . torchvision . read_file(x)",
        "o = ops\n    y = o.image.read_file(x)",
        "y = ops.c10d.send(x)",
        'y = rpc_sync("worker", x)',
        "y = __torch__.torch.classes.dist_c10d.Store()",
        "a = __torch__.torch\n    y = a.classes.dist_c10d.Store()",
        'y = getattr(__torch__, "torch")',
    ],
)
def test_no_way_to_name_such_an_operator_passes(line: str, tmp_path: Path) -> None:
    plain = saved(_Plain(), tmp_path / "plain.ts")
    with pytest.raises(BundleError, match="not run"):
        read_torchscript(rewritten(plain, line=f"    {line}\n"))


@pytest.mark.parametrize("network", ["unet", "segresnet"])
@pytest.mark.parametrize("traced", [True, False])
def test_a_network_of_monai_s_passes_and_is_the_same(network: str, traced: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = UNet(2, 1, 2, [4, 8], [2], num_res_units=1) if network == "unet" else SegResNet(2, 8, 1, 2)
    patch = torch.randn(1, 1, 32, 32)
    path = saved(made.eval(), tmp_path / "net.ts", patch if traced else None)
    with torch.inference_mode():
        assert torch.equal(load(read_torchscript(path))(patch), made(patch))


def test_operators_that_only_compute_pass(tmp_path: Path) -> None:
    plain = saved(_Plain(), tmp_path / "plain.ts")
    checked = read_torchscript(rewritten(plain, line="    y = ops.aten.relu(x)\n    x = torch.sigmoid(y)\n"))
    assert load(checked)(torch.zeros(1)).shape == (1,)


def test_what_is_no_such_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.ts"
    for content in (b"", b"no network", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="not a TorchScript file"):
            read_torchscript(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(BundleError, match="holds no code"):
        read_torchscript(path)
    plain = saved(_Plain(), tmp_path / "plain.ts")
    with pytest.raises(BundleError, match="given up"):
        read_torchscript(rewritten(plain, put={"model.json": "{}"}))
    with pytest.raises(BundleError, match="held twice"):
        read_torchscript(rewritten(plain, put={"Constants.pkl": ""}))
    with pytest.raises(BundleError, match="its data cannot be read"):
        read_torchscript(rewritten(plain, put={"more.pkl": "c"}))


def test_a_class_of_torch_s_own_in_the_data_is_refused(tmp_path: Path) -> None:
    plain = saved(_Plain(), tmp_path / "plain.ts")
    pickled = "c__torch__.torch.classes.dist_c10d\nStore\n."
    with pytest.raises(BundleError, match="not run"):
        read_torchscript(rewritten(plain, put={"more.pkl": pickled}))


def test_what_unpacks_to_much_more_than_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ts"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/code/__torch__.py", bytes(80 * 2**20))
    with pytest.raises(BundleError, match="would unpack to"):
        read_torchscript(path)
