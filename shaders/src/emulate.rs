//! Subgroups of any size for drivers that have others: kernels for subgroups of 32 and 64 are
//! tested where no such device is. Not part of a normal build.
//!
//! Only the operations that kernels use exist: the sum of a number or of four, and the count of
//! lanes before this one. They meet in workgroup memory, so all invocations must take part,
//! which these kernels promise anyway.

/// `source` with its subgroups of `size` invocations made out of workgroup memory.
pub(crate) fn emulate(source: &str, size: u32) -> String {
    if !source.contains("@builtin(subgroup_id)") {
        return source.to_string();
    }
    let kept = source
        .lines()
        .filter(|line| !line.contains("subgroup_id)") && !line.contains("num_subgroups)"));
    let text: String = kept.flat_map(|line| [line, "\n"]).collect();
    let (before, main) = text.split_once("fn main(").unwrap_or((&text, ""));
    let (arguments, body) = main.split_once(") {\n").unwrap_or((main, ""));
    let with_calls = |part: &str| {
        part.replace("subgroupExclusiveAdd(1u)", "emulated_lane()")
            .replace("subgroupAdd(1u)", "emulated_lanes()")
            .replace("return subgroupAdd(value);", "return emulated_add(value);")
            .replace("subgroupAdd(", "emulated_add_one(")
    };
    format!(
        "{}{}fn main({arguments}) {{\n\
         \x20   emulated_local = local;\n\
         \x20   let subgroup = local / {size}u;\n\
         \x20   let subgroups = (WG + {size}u - 1u) / {size}u;\n{}",
        OPERATIONS.replace("SIZE", &format!("{size}u")),
        with_calls(before),
        with_calls(body)
    )
}

const OPERATIONS: &str = "\
var<private> emulated_local: u32;
var<workgroup> emulated_cells: array<vec4<f32>, WG>;
fn emulated_lane() -> u32 {
    return emulated_local % SIZE;
}
fn emulated_lanes() -> u32 {
    return min(SIZE, WG - emulated_local / SIZE * SIZE);
}
fn emulated_add(value: vec4<f32>) -> vec4<f32> {
    emulated_cells[emulated_local] = value;
    workgroupBarrier();
    var sum = vec4<f32>(0.0);
    let first = emulated_local - emulated_lane();
    for (var i = 0u; i < emulated_lanes(); i += 1u) {
        sum += emulated_cells[first + i];
    }
    workgroupBarrier();
    return sum;
}
fn emulated_add_one(value: f32) -> f32 {
    return emulated_add(vec4<f32>(value, 0.0, 0.0, 0.0)).x;
}
";
