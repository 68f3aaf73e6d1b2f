"""Every network of the registry, at every size and number of channels: builds, runs, back-propagates, traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nets import registry
from nets.attention_unet import AttentionUNet
from nets.mobilenet import MobileNetV3Encoder

SMALL = {"aspp": 16, "decoder": [16, 12, 8, 8, 8], "full_stem": 4}
PLAIN: dict[str, Any] = {
    "features": [4, 8],
    "kernels": [[3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2]],
    "convolutions": [2, 2],
    "decoder_convolutions": [2],
}
CASES: dict[str, tuple[dict[str, Any], list[tuple[int, ...]]]] = {
    "attention-unet": (SMALL, [(32, 32), (33, 47), (64, 96), (97, 63)]),
    "attention-unet small": ({**SMALL, "encoder": "small"}, [(32, 32), (33, 47), (97, 63)]),
    "attention-unet full": ({**SMALL, "encoder": "small", "separable": False}, [(32, 32), (33, 47)]),
    "attention-unet plain": (
        {**SMALL, "encoder": "small", "attention": False, "pyramid": False, "encoder_eps": 1e-3},
        [(32, 32), (33, 47)],
    ),
    "attention-unet one-jump": ({**SMALL, "encoder": "small", "progressive": False}, [(32, 32), (33, 47)]),
    "attention-unet supervised": (
        {**SMALL, "encoder": "small", "deep_supervision": True},
        [(64, 96), (33, 47)],
    ),
    "attention-unet one-jump-supervised": (
        {**SMALL, "encoder": "small", "progressive": False, "deep_supervision": True},
        [(33, 47)],
    ),
    "phantom": ({"levels": [0.3, 0.6], "spatial_dims": 2}, [(16, 16), (33, 47)]),
    "phantom 3-D": ({"levels": [0.3, 0.6], "spatial_dims": 3}, [(8, 9, 10), (16, 16, 16)]),
    "plain-conv-unet": (PLAIN, [(16, 16), (24, 40)]),
    "plain-conv-unet 3-D": (
        {**PLAIN, "kernels": [[1, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [2, 2, 2]]},
        [(8, 8, 8), (6, 16, 12)],
    ),
    "swin-unet": ({"width": 32, "depths": [2, 2], "window": 4}, [(32, 32), (33, 47), (5, 70)]),
    "unet": ({"widths": [4, 8, 12]}, [(8, 8), (33, 47), (64, 96)]),
    "unet separable": ({"widths": [4, 8, 16], "separable": True}, [(16, 16), (33, 47)]),
    "vnet": ({"widths": [4, 8, 12]}, [(16, 16, 16), (9, 17, 24)]),
}
MATRIX = [
    pytest.param(key.split()[0], hyper, size, channels, id=f"{key}-{'x'.join(map(str, size))}-{channels}ch")
    for key, (hyper, sizes) in CASES.items()
    for size in sizes
    for channels in (1, 3)
]
LAST = [
    pytest.param(key.split()[0], hyper, sizes[-1], 3, id=key.replace(" ", "-"))
    for key, (hyper, sizes) in CASES.items()
]


def test_the_matrix_leaves_no_network_out() -> None:
    assert {key.split()[0] for key in CASES} == set(registry.NETWORKS)


@pytest.mark.parametrize(("name", "hyper", "size", "channels"), MATRIX)
def test_builds_runs_and_back_propagates(
    name: str, hyper: dict[str, Any], size: tuple[int, ...], channels: int
) -> None:
    network = registry.build(name, in_channels=channels, classes=2, **hyper).train()
    image = torch.randn(2, channels, *size)
    given = network(image)
    outputs = given if isinstance(given, list) else [given]
    assert outputs[0].shape == (2, 2, *size)
    assert all(torch.isfinite(logits).all() for logits in outputs)
    torch.stack([logits.square().mean() for logits in outputs]).sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without, f"no finite gradient: {without}"


# what OpenVINO's converter traces with; torch would rather have another exporter used
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("name", "hyper", "size", "channels"), LAST)
def test_one_trace_serves_every_size(
    name: str, hyper: dict[str, Any], size: tuple[int, ...], channels: int
) -> None:
    """OpenVINO converts a traced graph once and runs it at any size: no size may be frozen into it."""
    torch.manual_seed(1)
    network = registry.build(name, in_channels=channels, classes=2, **hyper).eval()
    # those of fixed windows halve even sizes only: what they are traced with is what they are fed
    other = size if name in ("plain-conv-unet", "vnet") else tuple(n + 31 for n in size)
    with torch.inference_mode():
        traced = torch.jit.trace(network, torch.randn(1, channels, *size), check_trace=False)
        image = torch.randn(1, channels, *other)
        assert torch.allclose(traced(image), network(image), atol=1e-4)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: attention-unet, phantom"):
        registry.build("resnet")


def test_an_unknown_hyper_parameter_names_the_network() -> None:
    with pytest.raises(ValueError, match=r"attention-unet.*depth"):
        registry.build("attention-unet", depth=5)


def test_the_encoder_halves_the_size_five_times() -> None:
    encoder = MobileNetV3Encoder().eval()
    features = encoder(torch.zeros(1, 3, 96, 64))
    assert [tuple(f.shape[1:]) for f in features] == [
        (16, 48, 32),
        (24, 24, 16),
        (40, 12, 8),
        (112, 6, 4),
        (160, 3, 2),
    ]
    assert encoder.channels == [f.shape[1] for f in features]


def test_the_shipped_size_stays_within_its_promise() -> None:
    """base: at most 6 M parameters; the encoder's part is that of the published table cut at 160 channels."""
    network = AttentionUNet()
    assert sum(p.numel() for p in network.parameters()) < 6_000_000
    encoder = sum(p.numel() for n, p in network.encoder.named_parameters())
    # the published network has 5,483,032 weights: less its classifier (2,511,080) and last 1x1 stage (155,520)
    assert encoder == 5_483_032 - 2_511_080 - 155_520


def test_it_starts_by_finding_almost_nothing() -> None:
    torch.manual_seed(0)
    probability = torch.sigmoid(AttentionUNet(prior=0.01).eval()(torch.randn(1, 3, 64, 64)))
    assert probability.mean() < 0.05


def test_the_full_resolution_skip_carries_a_single_pixel() -> None:
    """A microaneurysm is a few pixels wide: a change of one pixel must move the logit there most."""
    torch.manual_seed(0)
    network = AttentionUNet(**SMALL).eval()
    image = torch.zeros(1, 3, 64, 64)
    changed = image.clone()
    changed[..., 20, 30] = 5
    with torch.inference_mode():
        difference = (network(changed) - network(image)).abs().sum(dim=1)[0]
    row, column = divmod(int(difference.argmax()), 64)
    assert abs(row - 20) <= 3
    assert abs(column - 30) <= 3


def test_the_coarser_logits_come_in_training_alone() -> None:
    torch.manual_seed(0)
    network = AttentionUNet(**SMALL, deep_supervision=True)
    outputs = network.train()(torch.randn(2, 3, 64, 96))
    assert [tuple(logits.shape[2:]) for logits in outputs] == [(64, 96), (32, 48), (16, 24), (8, 12)]
    assert network.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 4, 64, 96)


def test_switches_add_no_weights_to_the_network_that_ships() -> None:
    """Its weights load by name: a switch that is off must leave no trace, one that is on takes parts away or adds."""
    keys = set(AttentionUNet(**SMALL).state_dict())
    supervised = set(AttentionUNet(**SMALL, deep_supervision=True).state_dict())
    assert {key.split(".")[0] for key in supervised - keys} == {"auxiliary"}
    assert not keys - supervised
    plain = set(AttentionUNet(**SMALL, attention=False).state_dict())
    assert plain == {key for key in keys if ".gate." not in key}
    jump = set(AttentionUNet(**SMALL, progressive=False).state_dict())
    assert jump == {key for key in keys if not key.startswith(("full.", "decoder.3.", "decoder.4."))}


def test_one_jump_ends_in_a_bilinear_rise() -> None:
    """Without `progressive` nothing but an interpolation happens above a quarter of the size."""
    torch.manual_seed(0)
    network = AttentionUNet(**SMALL, progressive=False).eval()
    coarse: list[Tensor] = []
    network.head.register_forward_hook(lambda _module, _given, out: coarse.append(out))
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, 64, 96))
    assert coarse[0].shape == (1, 4, 16, 24)
    risen = functional.interpolate(coarse[0], size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.equal(logits, risen)


def test_another_number_of_decoder_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="five widths, coarse to fine, not 4"):
        registry.build("attention-unet", decoder=[16, 12, 8, 8])


def multiply_adds(network: nn.Module) -> dict[str, int]:
    """Of each part's convolutions on one picture of 128 x 128, and of `all`."""
    counted: dict[str, int] = Counter()

    def count(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def add(module: nn.Module, _given: Any, out: Tensor) -> None:
            assert isinstance(module, nn.Conv2d)
            counted[name] += out.numel() * module.weight[0].numel()
            counted["all"] += out.numel() * module.weight[0].numel()

        return add

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count(name.split(".")[0]))
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, 128, 128))
    return counted


@pytest.mark.parametrize(
    ("hyper", "decoder", "everything"),
    [
        ({}, 0.84, 0.72),
        ({"encoder": "small", "aspp": 64, "decoder": [48, 24, 16, 12, 8], "full_stem": 4}, 0.75, 0.59),
    ],
    ids=["base", "small"],
)
def test_three_quarters_fewer_operations_is_true_of_the_decoder_alone(
    hyper: dict[str, Any], decoder: float, everything: float
) -> None:
    """Separable against full 3 x 3 convolutions. The encoder is the same in both, so the whole network saves less."""
    ours, twin = (multiply_adds(AttentionUNet(**hyper, separable=separable)) for separable in (True, False))
    assert ours["encoder"] == twin["encoder"]
    assert 1 - ours["decoder"] / twin["decoder"] == pytest.approx(decoder, abs=0.005)
    assert 1 - ours["all"] / twin["all"] == pytest.approx(everything, abs=0.005)
    assert decoder >= 0.75 > everything


def test_a_plain_convolution_of_the_decoder_is_what_its_separable_one_stands_for() -> None:
    """The twin differs in nothing else: same reach, same channels, same number of norms after the mixing."""
    ours, twin = AttentionUNet(**SMALL), AttentionUNet(**SMALL, separable=False)
    for stage, other in zip(ours.decoder, twin.decoder, strict=True):
        for separable, full in zip(stage.fuse, other.fuse, strict=True):
            assert separable[0][0].kernel_size == full[0].kernel_size == (3, 3)
            assert separable[0][0].in_channels == full[0].in_channels
            assert separable[1][0].out_channels == full[0].out_channels
    for branch, full in zip(ours.aspp.atrous, twin.aspp.atrous, strict=True):
        assert branch[0][0].dilation == full[0].dilation
