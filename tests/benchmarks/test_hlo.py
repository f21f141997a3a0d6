"""Reading compiled programs: kernels, copies, loops, products and collectives, on short texts of optimized HLO."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import ahead_of_time
import hlo
import targets

GPU = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[3,8]{1,0})->f32[3,8]{1,0}}

%fused_slice (p.0: f32[3,8], p.1: s32[]) -> f32[1,8] {
  %p.0 = f32[3,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[1,8]{1,0} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={1,8}
}

%fused_product (a: bf16[4,5], b: bf16[5,6]) -> bf16[4,6] {
  %a = bf16[4,5]{1,0} parameter(0)
  %b = bf16[5,6]{1,0} parameter(1)
  ROOT %dot = bf16[4,6]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[3,8])) -> (s32[], f32[3,8]) {
  %state = (s32[], f32[3,8]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  %all = f32[3,8]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,8]{1,0} fusion(%all, %number), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(step)/transpose(jvp(Net))/block0/dynamic_slice" stack_frame_id=3}
  %copy.1 = f32[3,8]{0,1} copy(%all)
  ROOT %next = (s32[], f32[3,8]{1,0}) tuple(%number, %all)
}

%condition (state.1: (s32[], f32[3,8])) -> pred[] {
  %state.1 = (s32[], f32[3,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

%graph (g: bf16[4,5], h: bf16[5,6]) -> bf16[4,6] {
  %g = bf16[4,5]{1,0} parameter(0)
  %h = bf16[5,6]{1,0} parameter(1)
  ROOT %product = bf16[4,6]{1,0} fusion(%g, %h), kind=kCustom, calls=%fused_product, metadata={op_name="jit(step)/jvp(Net)/head/dot_general"}
}

ENTRY %main (x: f32[3,8], y: bf16[4,5], z: bf16[5,6], image: bf16[2,9,9,16], kernel: bf16[32,3,3,16]) -> f32[3,8] {
  %x = f32[3,8]{1,0} parameter(0)
  %y = bf16[4,5]{1,0} parameter(1)
  %z = bf16[5,6]{1,0} parameter(2)
  %image = bf16[2,9,9,16]{3,2,1,0} parameter(3)
  %kernel = bf16[32,3,3,16]{3,2,1,0} parameter(4)
  %call = bf16[4,6]{1,0} call(%y, %z), to_apply=%graph
  %conv = (bf16[2,9,9,32]{3,2,1,0}, u8[0]{0}) custom-call(%image, %kernel), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(Net)/stem/conv_general_dilated"}
  %zero.1 = s32[] constant(0)
  %start = (s32[], /*index=1*/f32[3,8]{1,0}) tuple(%zero.1, %x)
  %loop = (s32[], f32[3,8]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}
  ROOT %result = f32[3,8]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501
TPU = """\
HloModule pmap_step

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%a, %b)
}

%inner (q: f32[64,2]) -> f32[64,2] {
  %q = f32[64,2]{1,0:T(8,128)} parameter(0)
  ROOT %all-reduce.3 = f32[64,2]{1,0:T(8,128)} all-reduce(%q), channel_id=3, to_apply=%sum
}

ENTRY %main (p: f32[64,2]) -> f32[64,2] {
  %p = f32[64,2]{1,0:T(8,128)} parameter(0)
  %copy-start = (f32[64,2]{1,0:T(8,128)S(1)}, f32[64,2]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
  %copy-done = f32[64,2]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %all-reduce.1 = f32[64,2]{1,0:T(8,128)} all-reduce(%copy-done), channel_id=1, replica_groups={{0,1}}, to_apply=%sum
  %other = (f32[64,2]{1,0}, f32[64,2]{1,0}) all-reduce(%p, %p), control-predecessors={%all-reduce.1}, to_apply=%sum
  %double = f32[64,2]{1,0:T(8,128)(2,1)} add(%all-reduce.1, %all-reduce.1)
  %called = f32[64,2]{1,0:T(8,128)} call(%double), to_apply=%inner
  %all-gather-start.7 = (f32[64,2]{1,0}, f32[128,2]{1,0}) all-gather-start(%called), dimensions={0}
  ROOT %all-gather-done.7 = f32[128,2]{1,0} all-gather-done(%all-gather-start.7)
}
"""


def test_kernels_of_loops_count_once_per_iteration_and_those_of_graphs_once():
    kernels = hlo.parse(GPU).kernels()
    assert [(kernel.kind, kernel.times) for kernel in kernels] == [
        ("fusion", 1), ("library call", 1), ("fusion", 5), ("copy", 5),
    ]  # fmt: skip
    assert hlo.parse(GPU).loops() == 1 and hlo.parse(GPU).collectives() == []


def test_products_are_counted_in_fusions_and_library_calls():
    product, convolution, *others = hlo.parse(GPU).kernels()
    assert (product.flops, product.dtype) == (2 * 4 * 5 * 6, "bf16")
    assert (convolution.flops, convolution.dtype) == (2 * 2 * 25 * 25 * 32 * 16, "bf16")
    assert [kernel.flops for kernel in others] == [0, 0]


def test_of_an_operand_that_is_sliced_the_slice_is_read():
    product, _, row, copy = hlo.parse(GPU).kernels()
    assert product.num_bytes == 2 * (20 + 30 + 24)
    assert row.num_bytes == 4 * (8 + 8 + 1) and copy.num_bytes == 4 * 48


@pytest.mark.parametrize(("target", "inputs", "shape"), [
    ("BackwardInput", "bf16[2,9,9,32]{3,2,1,0} bf16[32,3,3,16]{3,2,1,0}", "bf16[2,9,9,16]{3,2,1,0}"),
    ("BackwardFilter", "bf16[2,9,9,16]{3,2,1,0} bf16[2,9,9,32]{3,2,1,0}", "bf16[32,3,3,16]{3,2,1,0}"),
])  # fmt: skip
def test_the_gradients_of_a_convolution_have_as_many_operations(target, inputs, shape):
    first, second = inputs.split()
    text = (
        f"ENTRY %main (a: {first}, b: {second}) -> {shape} {{\n  %a = {first} parameter(0)\n"
        f"  %b = {second} parameter(1)\n  ROOT %conv = ({shape}, u8[0]{{0}}) custom-call(%a, %b), "
        f'window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv{target}"\n}}\n'
    )
    (kernel,) = hlo.parse(text).kernels()
    assert kernel.flops == 2 * 2 * 25 * 25 * 32 * 16


@pytest.mark.parametrize(("window", "sides", "pairs"), [
    ("size=3 pad=1_1", (9, 3, 9), 8 + 9 + 8),
    ("size=3 stride=2 pad=1_1", (9, 3, 5), 4 + 5 + 4),
    ("size=3 pad=3_3 rhs_dilate=3", (9, 3, 9), 6 + 9 + 6),
    ("size=2 pad=1_1 lhs_dilate=2", (3, 2, 6), 3 + 3),  # every second place holds a zero
    ("size=9 pad=8_8 rhs_reversal=1", (1, 9, 9), 9),  # a product over a batch, as TPUs have it
])  # fmt: skip
def test_products_with_padding_are_not_counted(window, sides, pairs):
    image, kernel, output = sides
    text = (
        f"ENTRY %main (a: f32[{image},2,3], b: f32[{kernel},3,5]) -> f32[{output},2,5] {{\n"
        f"  %a = f32[{image},2,3]{{2,1,0}} parameter(0)\n  %b = f32[{kernel},3,5]{{2,1,0}} parameter(1)\n"
        f"  ROOT %c = f32[{output},2,5]{{2,1,0}} convolution(%a, %b), "
        f"window={{{window}}}, dim_labels=0bf_0io->0bf\n}}\n"
    )
    (kernel,) = hlo.parse(text).kernels()
    assert kernel.flops == 2 * pairs * 2 * 3 * 5


def test_collectives_are_counted_with_their_bytes_and_what_they_wait_for():
    program = hlo.parse(TPU)
    assert [(each.kind, each.num_bytes, each.depth) for each in program.collectives()] == [
        ("all-reduce", 512, 0), ("all-reduce", 1024, 0), ("all-reduce", 512, 1), ("all-gather", 512, 2),
    ]  # fmt: skip
    assert program.prefetches() == 1
    assert [kernel.kind for kernel in program.kernels()] == ["other"]


def test_a_text_without_entry_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing\n")


@pytest.mark.parametrize(("op_name", "part"), [
    ("jit(many_steps)/while/body/transpose(jvp(LRFCNN))/block0/branch1_spatial/depthwise/mul", "LRFCNN/block0"),
    ("pmap(many_steps)/jvp(LRFCNN)/reduce_max", "LRFCNN"),
    ("jit(many_steps)/jvp(Discriminator.reconstruct)/big/conv", "Discriminator.reconstruct/big"),
    ("jit(many_steps)/optimizer/mul", "optimizer"),
    ("", ahead_of_time.NO_MODULE),
])  # fmt: skip
def test_operations_belong_to_the_modules_of_their_scopes(op_name, part):
    assert ahead_of_time.part_of(op_name) == part


def test_the_parts_sum_to_the_whole():
    result = ahead_of_time.read(hlo.parse(GPU), targets.ACCELERATORS["h100"], 1)
    assert result["launches"] == 12 and result["copies"] == 5 and result["loops"] == 1
    assert {name: part["launches"] for name, part in result["parts"].items()} == {
        "Net/block0": 5, ahead_of_time.NO_MODULE: 5, "Net/head": 1, "Net/stem": 1,
    }  # fmt: skip
    for name in ("flops", "bytes", "floor_milliseconds"):
        assert result[name] == pytest.approx(sum(part[name] for part in result["parts"].values()))
    assert result["floor_milliseconds"] > 12 * 1000 * targets.ACCELERATORS["h100"].launch_seconds


def test_large_sums_go_by_bandwidth_and_small_ones_by_latency():
    seconds = targets.reduction_seconds
    assert seconds(10**9, 1, 1e11, 1e-6) == 0
    assert seconds(10**9, 256, 1e11, 1e-6) == pytest.approx(2 * 10**9 / 1e11, rel=0.05)
    assert seconds(0, 256, 1e11, 1e-6) == pytest.approx(16e-6)
    assert seconds(0, 8, 1e11, 1e-6) < seconds(0, 9, 1e11, 1e-6)


@pytest.mark.parametrize("kind", targets.ACCELERATORS.values(), ids=targets.ACCELERATORS)
def test_communication_takes_longer_on_more_devices(kind):
    sums = [hlo.Collective("all-reduce", 256, depth) for depth in range(100)]
    sums.append(hlo.Collective("all-reduce", 10**8, 100))
    times = [targets.communication_seconds(sums, kind, devices) for devices in (1, 2, 8, 16, 256)]
    assert times[0] == 0 and times == sorted(times) and times[1] > 0
    assert targets.communication_seconds([], kind, 256) == 0


def test_descriptions_are_written_as_text_of_protocol_buffers():
    assert targets.text_proto({"a": {"b": 1, "c": 1.5}, "d": "x"}) == 'a { b: 1 c: 1.5 } d: "x"'
