// Positions of a part of split attention (hadal-device, `AttendPart`): at most n parts, each
// a multiple of k long, so that a short context is not cut finer than pays.

fn part_length(positions: u32) -> u32 {
    let step = p.n * p.k;
    return (positions + step - 1u) / step * p.k;
}
