// Sums of values by the probabilities of four queries at a time. Needs `weights`.

fn four_weights(at: u32) -> vec4<f32> {
    return vec4<f32>(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]);
}

// A column for each of four queries: the value by its weight. Unless they all see its position
// (`whole`) some have the weight 0, and must not hear of a NaN there.
fn mixed(value: vec4<f32>, w: vec4<f32>, whole: bool) -> mat4x4<f32> {
    if whole {
        return mat4x4<f32>(value * w.x, value * w.y, value * w.z, value * w.w);
    }
    return mat4x4<f32>(seen(value, w.x), seen(value, w.y), seen(value, w.z), seen(value, w.w));
}

fn seen(value: vec4<f32>, w: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), value * w, w != 0.0);
}

// Each column by its factor.
fn scaled(sums: mat4x4<f32>, w: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(sums[0] * w.x, sums[1] * w.y, sums[2] * w.z, sums[3] * w.w);
}
