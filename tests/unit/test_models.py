"""One contract for every registered model, and what is particular to Mamba-2 and its backends."""

from __future__ import annotations

import os
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from lvm.core.config.recipe import HeadConfig, ModelConfig
from lvm.core.errors import ConfigError, MissingExtraError
from lvm.core.randomness import torch_generator
from lvm.models import mamba_ssm_backend
from lvm.models.base import MAX_CONTEXT, MODELS, build_model, weight_decay_groups
from lvm.models.conv import causal_conv
from lvm.models.mamba2_block import GatedRMSNorm, Mamba2Block, resolve_backend
from lvm.models.projection import build_head
from lvm.models.ssd import ssd_dual, ssd_sequential

WIDTH = 24
CPU = torch.device("cpu")
SMALL = {"hidden": 16, "num_layers": 2, "state": 8, "head_dim": 8}


def small(name="mamba2", **changes):
    return ModelConfig(**{"name": name, **SMALL, **changes})


def unit_rows(*shape, purpose="rows"):
    rows = torch.randn(*shape, generator=torch_generator(3, purpose, *shape))
    return F.normalize(rows, dim=-1)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


every_model = pytest.mark.parametrize("name", MODELS.names())
every_form = pytest.mark.parametrize("residual", [False, True])


# --- the contract of every model ------------------------------------------------------------------


@every_model
@every_form
@pytest.mark.parametrize("length", [1, 2, 3, 5, 20])
def test_predictions_are_unit_rows(name, residual, length):
    model = build_model(small(name, residual=residual), WIDTH, seed=0)
    predictions = model(unit_rows(7, length, WIDTH))
    assert predictions.shape == (7, WIDTH)
    torch.testing.assert_close(predictions.norm(dim=-1), torch.ones(7), rtol=0, atol=1e-5)


@every_model
def test_the_longest_context_is_read(name):
    model = build_model(small(name, residual=True), WIDTH, seed=0)
    assert model(unit_rows(2, MAX_CONTEXT, WIDTH)).isfinite().all()


@every_model
@every_form
@pytest.mark.parametrize("hidden", [16, WIDTH])
def test_a_gradient_reaches_every_parameter(name, residual, hidden):
    model = build_model(small(name, residual=residual, hidden=hidden), WIDTH, seed=0)
    predictions, documents = (
        model(unit_rows(9, 5, WIDTH)),
        model.encode_documents(unit_rows(9, WIDTH)),
    )
    logits = predictions @ documents.T / 0.1
    F.cross_entropy(logits, torch.arange(9)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@every_model
def test_the_context_and_its_order_matter(name):
    model = build_model(small(name), WIDTH, seed=0)
    contexts = unit_rows(6, 5, WIDTH)
    predictions = model(contexts)
    for other in (contexts.flip(1), contexts[:, [1, 0, 2, 3, 4]], contexts.roll(1, 0)):
        assert ((model(other) - predictions).abs().amax(dim=1) > 1e-4).all()


@every_model
@every_form
def test_rows_of_a_batch_do_not_touch(name, residual):
    model = build_model(small(name, residual=residual), WIDTH, seed=0)
    contexts = unit_rows(6, 5, WIDTH)
    alone = torch.cat([model(row[None]) for row in contexts])
    torch.testing.assert_close(model(contexts), alone, rtol=0, atol=1e-5)


@every_model
def test_the_seed_alone_decides_the_weights(name):
    config = small(name)
    first = flat(build_model(config, WIDTH, seed=5))
    torch.rand(100)
    state = torch.get_rng_state()
    assert torch.equal(flat(build_model(config, WIDTH, seed=5)), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was moved"
    assert not torch.equal(flat(build_model(config, WIDTH, seed=6)), first)
    assert first.dtype == torch.float32


def sums_of_weights() -> dict[str, str]:
    """Return the sum of the absolute weights of every model, to the last bit."""
    models = {name: build_model(small(name), WIDTH, seed=5) for name in MODELS.names()}
    return {
        name: sum(p.double().abs().sum().item() for p in model.parameters()).hex()
        for name, model in models.items()
    }


def test_another_process_builds_the_same_weights(other_process):
    here = sums_of_weights()
    assert len(set(here.values())) == len(MODELS.names())
    assert other_process(sums_of_weights) == here


@every_model
def test_a_model_can_learn(name):
    """Thirty steps on one batch raise the cosine to arbitrary targets well above the start."""
    model = build_model(small(name, residual=True), WIDTH, seed=0)
    contexts, targets = unit_rows(16, 5, WIDTH), unit_rows(16, WIDTH, purpose="targets")
    optimizer = torch.optim.AdamW(weight_decay_groups(model), lr=1e-2)
    cosines = []
    for _ in range(30):
        cosine = (model(contexts) * targets).sum(-1).mean()
        cosines.append(float(cosine.detach()))
        optimizer.zero_grad()
        (1 - cosine).backward()
        optimizer.step()
    assert cosines[-1] > cosines[0] + 0.3


@every_model
def test_autocast_changes_little(name):
    model = build_model(small(name, residual=True), WIDTH, seed=0)
    contexts = unit_rows(6, 5, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(contexts)
    rounded.sum().backward()
    assert rounded.dtype == torch.float32
    assert ((rounded * model(contexts)).sum(-1) > 0.999).all()


@every_model
def test_only_two_towers_move_the_documents(name):
    model = build_model(small(name), WIDTH, seed=0)
    vectors = unit_rows(3, 4, WIDTH)
    documents = model.encode_documents(vectors)
    assert model.has_document_tower == (name == "two_tower")
    assert torch.equal(documents, vectors) == (name != "two_tower")
    assert documents.shape == vectors.shape
    torch.testing.assert_close(documents.norm(dim=-1), torch.ones(3, 4), rtol=0, atol=1e-5)
    assert ((documents * vectors).sum(-1) > 0.9).all(), "the tower starts near the identity"


@every_model
def test_projections_exist_only_where_the_widths_differ(name):
    names = set(build_model(small(name), WIDTH, seed=0).state_dict())
    assert {"encoder.project_in.weight", "encoder.project_out.weight"} <= names
    same = set(build_model(small(name), SMALL["hidden"], seed=0).state_dict())
    assert not any("project_" in key for key in same)


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="did you mean mamba2"):
        build_model(small("mamba3"), WIDTH, seed=0)


# --- residual, weight decay, head -----------------------------------------------------------------


def test_the_residual_adds_the_weighted_context():
    model = build_model(small(residual=True), WIDTH, seed=0)
    contexts = unit_rows(4, 3, WIDTH)
    weights = torch.tensor([1 / 3, 1 / 2, 1.0]) / (1 / 3 + 1 / 2 + 1)
    mix = sum(w * contexts[:, t] for t, w in enumerate(weights))
    correction = model.encoder(contexts * WIDTH**0.5)  # the encoder reads unit variance
    expected = F.normalize(model.encoder_scale * correction + mix, dim=-1)
    torch.testing.assert_close(model(contexts), expected, rtol=0, atol=1e-6)
    assert ((expected * F.normalize(mix, dim=-1)).sum(-1) > 0.5).all(), "the mix leads at the start"


@pytest.mark.parametrize("key", ["input_dropout", "output_dropout"])
def test_dropout_of_the_path_leaves_the_residual_whole(key):
    contexts = unit_rows(4, 3, WIDTH)
    plain = build_model(small(residual=True), WIDTH, seed=0)
    model = build_model(small(residual=True, **{key: 0.5}), WIDTH, seed=0)
    torch.testing.assert_close(model.eval()(contexts), plain.eval()(contexts), rtol=0, atol=0)
    model.train()
    with torch.no_grad():
        assert not torch.equal(model(contexts), model(contexts)), "drawn anew in training"
        model.encoder_scale.zero_()
        plain.encoder_scale.zero_()
        torch.testing.assert_close(model(contexts), plain(contexts), rtol=0, atol=1e-6)


@every_model
def test_weight_decay_spares_what_it_must(name):
    model = build_model(small(name, residual=True), WIDTH, seed=0)
    decayed, kept = weight_decay_groups(model)
    names = {id(p): n for n, p in model.named_parameters()}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert "weight_decay" not in decayed
    assert kept["weight_decay"] == 0
    for parameter in decayed["params"]:
        last = names[id(parameter)].split(".")[-1]
        assert not last.startswith("bias"), names[id(parameter)]
        assert last not in ("dt_bias", "A_log", "D", "residual_logits", "encoder_scale")
        assert "norm" not in names[id(parameter)]
    if name == "mamba2":
        ends = ("in_proj.weight", "conv1d.weight", "out_proj.weight", "project_in.weight")
        for end in (*ends, "project_out.weight"):
            assert any(names[id(p)].endswith(end) for p in decayed["params"])


def test_the_head_returns_seeded_unit_rows():
    config = HeadConfig(hidden=32, width=12)
    head = build_head(config, WIDTH, seed=1)
    output = head(unit_rows(2, 5, WIDTH))
    assert output.shape == (2, 5, 12)
    torch.testing.assert_close(output.norm(dim=-1), torch.ones(2, 5), rtol=0, atol=1e-5)
    assert torch.equal(flat(build_head(config, WIDTH, seed=1)), flat(head))
    assert not torch.equal(flat(build_head(config, WIDTH, seed=2)), flat(head))
    shapes = {name: tuple(t.shape) for name, t in head.state_dict().items()}
    assert shapes == {
        "net.0.weight": (32, WIDTH),
        "net.0.bias": (32,),
        "net.2.weight": (32,),
        "net.2.bias": (32,),
        "net.3.weight": (12, 32),
        "net.3.bias": (12,),
    }


# --- Mamba-2 --------------------------------------------------------------------------------------


def block(**changes):
    torch.manual_seed(0)
    return Mamba2Block(small(**changes))


def written_out(layer, u):
    """The block step by step from its weights: convolution, recurrence, gate, norm, projection."""
    inner, state, heads = layer.inner, layer.state, len(layer.D)
    z, xbc, dt = (u @ layer.in_proj.weight.T).split([inner, inner + 2 * state, heads], dim=-1)
    conv, length = layer.conv1d, u.shape[1]
    xbc = F.conv1d(
        xbc.transpose(1, 2),
        conv.weight,
        conv.bias,
        padding=conv.kernel_size[0] - 1,
        groups=inner + 2 * state,
    )[..., :length].transpose(1, 2)
    x, B_, C = (xbc * torch.sigmoid(xbc)).split([inner, state, state], dim=-1)
    y = ssd_sequential(
        x.unflatten(2, (heads, -1)),
        torch.log1p(torch.exp(dt + layer.dt_bias)),
        -torch.exp(layer.A_log),
        B_[:, :, None],
        C[:, :, None],
        layer.D,
    ).flatten(2)
    y = y * z * torch.sigmoid(z)
    y = y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-5) * layer.norm.weight
    return y @ layer.out_proj.weight.T


@pytest.mark.parametrize("backend", ["dual", "chunked"])
@pytest.mark.parametrize("length", [1, 3, 5, 70])
def test_the_block_equals_the_written_out_recurrence(backend, length):
    layer = block(backend=backend).double()
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.D.uniform_(-1, 1)
    u = torch.randn(3, length, 16, dtype=torch.float64, generator=torch_generator(2))
    expected = written_out(layer, u)
    torch.testing.assert_close(layer(u), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(layer(u, last_only=True), expected[:, -1:], rtol=0, atol=1e-10)


def test_the_state_dict_is_that_of_the_package():
    layer = Mamba2Block(ModelConfig())  # hidden 128, state 64, inner 256, 4 heads of 64
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes == {
        "dt_bias": (4,),
        "A_log": (4,),
        "D": (4,),
        "in_proj.weight": (2 * 256 + 2 * 64 + 4, 128),
        "conv1d.weight": (256 + 2 * 64, 1, 4),
        "conv1d.bias": (256 + 2 * 64,),
        "norm.weight": (256,),
        "out_proj.weight": (128, 256),
    }


def test_the_block_starts_in_the_ranges_of_the_paper():
    torch.manual_seed(0)
    layer = Mamba2Block(ModelConfig(hidden=512, head_dim=1))  # 1024 heads
    dt, rates = F.softplus(layer.dt_bias.detach()), torch.exp(layer.A_log.detach())
    assert dt.min() > 0.99e-3
    assert dt.max() < 0.101
    assert abs(float(dt.log10().mean()) + 2) < 0.1, "log-uniform between .001 and .1"
    assert rates.min() > 0.99
    assert rates.max() < 16.01
    assert abs(float(rates.mean()) - 8.5) < 0.5
    assert torch.equal(layer.D.detach(), torch.ones(1024))


@pytest.mark.parametrize("backend", ["dual", "chunked"])
def test_a_later_vector_changes_no_earlier_output(backend):
    layer = block(backend=backend).double()
    u = torch.randn(2, 70, 16, dtype=torch.float64, generator=torch_generator(4))
    changed = u.clone()
    changed[:, 40] += 1
    difference = (layer(changed) - layer(u)).abs().amax(dim=(0, 2))
    assert difference[:40].max() == 0
    assert (difference[40:44] > 0).all()


@pytest.mark.parametrize("taps", [1, 2, 4, 7])
@pytest.mark.parametrize("length", [1, 3, 5, 9])
def test_the_shifted_convolution_is_conv1d(taps, length):
    generator = torch_generator(6, taps, length)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, length, 3), (3, 1, taps), (3,))
    )
    padded = F.pad(x.transpose(1, 2), (taps - 1, 0))
    expected = F.conv1d(padded, weight, bias, groups=3).transpose(1, 2)
    torch.testing.assert_close(causal_conv(x, weight, bias), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(causal_conv, (x, weight, bias))


def test_the_gate_comes_before_the_norm():
    norm = GatedRMSNorm(6).double()
    y, z = torch.randn(2, 1, 4, 6, dtype=torch.float64, generator=torch_generator(8))
    gated = y * z * torch.sigmoid(z)
    expected = gated / torch.sqrt((gated**2).mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(norm(y, z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_requested_backend_is_never_replaced_in_silence(num_layers):
    model = build_model(small(backend="mamba_ssm", num_layers=num_layers), WIDTH, seed=0)
    with pytest.raises((ConfigError, MissingExtraError), match=r"model\.backend"):
        model(unit_rows(2, 5, WIDTH))


def test_the_whole_model_agrees_across_backends():
    dual, chunked = (
        build_model(small(backend=backend, num_layers=3), WIDTH, seed=0)
        for backend in ("dual", "chunked")
    )
    chunked.load_state_dict(dual.state_dict(), strict=True)
    contexts = unit_rows(4, 90, WIDTH)
    torch.testing.assert_close(dual(contexts), chunked(contexts), rtol=0, atol=1e-5)


def test_head_dim_must_divide_the_inner_width():
    with pytest.raises(ConfigError, match=r"head_dim must divide hidden \* expand = 32 \(got 24\)"):
        build_model(small(head_dim=24), WIDTH, seed=0)
    for name in ("transformer", "two_tower"):
        with pytest.raises(ConfigError, match="must divide hidden = 16"):
            build_model(small(name, head_dim=24), WIDTH, seed=0)


@pytest.mark.parametrize(
    ("requested", "length", "device", "installed", "expected"),
    [
        ("auto", 5, "cpu", True, "dual"),
        ("auto", 128, "cpu", False, "dual"),
        ("auto", 129, "cpu", False, "chunked"),
        ("auto", 5, "cuda", True, "dual"),
        ("auto", 5, "cuda", False, "dual"),
        ("auto", 128, "cuda", True, "dual"),
        ("auto", 129, "cuda", True, "mamba_ssm"),
        ("auto", 500, "cuda", False, "chunked"),
        ("dual", 500, "cuda", True, "dual"),
        ("chunked", 5, "cpu", False, "chunked"),
    ],
)
def test_the_backend_is_resolved(monkeypatch, requested, length, device, installed, expected):
    monkeypatch.setattr(mamba_ssm_backend, "is_installed", lambda: installed)
    assert resolve_backend(requested, length, torch.device(device)) == expected


# --- the door to mamba_ssm ------------------------------------------------------------------------


@pytest.fixture
def fresh_kernel(monkeypatch):
    """No cached kernel, no pretended package and no changed environment, before and after."""
    mamba_ssm_backend.kernel.cache_clear()
    monkeypatch.setenv("TRITON_F32_DEFAULT", "ieee")
    before = {name: module for name, module in sys.modules.items() if name.startswith("mamba_ssm")}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    yield
    mamba_ssm_backend.kernel.cache_clear()
    for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
        del sys.modules[name]


def test_an_absent_package_names_the_extra(monkeypatch, fresh_kernel):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"mamba_ssm, .*lvm\[gpu\]"):
        resolve_backend("mamba_ssm", 5, CPU)
    with pytest.raises(MissingExtraError, match=r"lvm\[gpu\]"):
        mamba_ssm_backend.kernel()
    assert not mamba_ssm_backend.is_installed()


def test_the_package_is_refused_away_from_cuda(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.SimpleNamespace())
    with pytest.raises(ConfigError, match="needs CUDA"):
        resolve_backend("mamba_ssm", 5, CPU)
    assert resolve_backend("mamba_ssm", 5, torch.device("cuda")) == "mamba_ssm"


def test_the_kernel_is_imported_without_the_packages_init(monkeypatch, tmp_path, fresh_kernel):
    package = tmp_path / "mamba_ssm"
    folder = package / "ops" / "triton"
    folder.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('selective_scan_cuda')\n")
    for inner in (package / "ops", folder):
        (inner / "__init__.py").write_text("")
    (folder / "ssd_combined.py").write_text("def mamba_chunk_scan_combined():\n    return 'ran'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert mamba_ssm_backend.kernel()() == "ran"
    assert os.environ["TRITON_F32_DEFAULT"] == "ieee"
    assert "mamba_ssm" not in sys.modules, "the stand-in must not shadow the real package"


def scan_with_windows(x, dt, A, B_, C, *, chunk_size, D, seq_idx):
    """What the kernel computes: the recurrence, started again wherever seq_idx changes."""
    assert x.shape[1] <= chunk_size or seq_idx.unique().numel() == 1
    rows = []
    for r in range(len(x)):
        spans = [seq_idx[r] == number for number in seq_idx[r].unique_consecutive()]
        parts = [
            ssd_sequential(
                x[r : r + 1, s], dt[r : r + 1, s], A, B_[r : r + 1, s], C[r : r + 1, s], D
            )
            for s in spans
        ]
        rows.append(torch.cat(parts, dim=1))
    return torch.cat(rows)


@pytest.mark.parametrize(("batch", "length"), [(1, 5), (12, 5), (29, 5), (3, 64), (2, 65)])
def test_packed_windows_stay_apart(monkeypatch, batch, length):
    monkeypatch.setattr(mamba_ssm_backend, "kernel", lambda: scan_with_windows)
    generator = torch_generator(9, batch, length)
    x, B_, C = (
        torch.randn(batch, length, *tail, generator=generator, dtype=torch.float64)
        for tail in ((2, 4), (1, 3), (1, 3))
    )
    dt = torch.rand(batch, length, 2, generator=generator, dtype=torch.float64)
    A, D = torch.tensor([-1.0, -4.0]).double(), torch.tensor([0.5, 2.0]).double()
    actual = mamba_ssm_backend.scan(x, dt, A, B_, C, D)
    torch.testing.assert_close(actual, ssd_dual(x, dt, A, B_, C, D), rtol=0, atol=1e-10)


def test_twelve_windows_of_five_share_a_row():
    rows = mamba_ssm_backend.pack(torch.ones(25, 5, 2), 12)
    assert rows.shape == (3, 60, 2)
    assert rows[2].sum() == 5 * 2, "the last row holds one window and zeros"
    numbers = mamba_ssm_backend.window_of_position(3, 12, 5, CPU)
    assert numbers.dtype == torch.int32
    assert numbers[1].tolist() == [w for w in range(12) for _ in range(5)]


@pytest.mark.parametrize("length", [5, 100])
def test_the_forms_equal_the_packages_own_reference(length):
    reason = "mamba_ssm and triton are in the gpu extra, which cannot be installed on every machine"
    if not mamba_ssm_backend.is_installed():
        pytest.skip(reason)
    mamba_ssm_backend.kernel()
    reference = sys.modules["mamba_ssm.ops.triton.ssd_combined"].ssd_chunk_scan_combined_ref
    generator = torch_generator(10, length)
    x, B_, C = (
        torch.randn(4, length, *tail, generator=generator) for tail in ((2, 8), (1, 6), (1, 6))
    )
    dt = 0.1 * torch.rand(4, length, 2, generator=generator)
    A, D = torch.tensor([-1.0, -8.0]), torch.tensor([0.5, 2.0])
    padding = -length % 64
    x_pad, B_pad, C_pad = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (x, B_, C))
    dt_pad = F.pad(dt, (0, 0, 0, padding))
    expected = reference(x_pad, dt_pad, A, B_pad, C_pad, 64, D=D)[:, :length]
    torch.testing.assert_close(ssd_dual(x, dt, A, B_, C, D), expected, rtol=1e-5, atol=1e-5)
