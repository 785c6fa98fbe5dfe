//! Memory: what is written comes back, what is wrong is refused.

use std::collections::HashSet;

use hadal_device::{BufferDesc, BufferId, Device, Error};

use super::Verdict;
use super::tools::*;

pub fn bytes_come_back_as_written_whatever_their_length(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    for bytes in [1u64, 3, 4, 5, 1000, (33 << 20) + 7] {
        if bytes > device.info().limits.max_buffer_bytes {
            continue;
        }
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
        let buffer = memory.alloc(bytes)?;
        memory.write(buffer, 0, &data)?;
        ensure!(
            memory.read(buffer, 0, bytes)? == data,
            "{bytes} bytes came back changed"
        );
        // Any range can be read.
        let (from, length) = (bytes / 3, bytes / 2);
        let part = memory.read(buffer, from, length)?;
        let same = part == data[from as usize..][..length as usize];
        ensure!(same, "a part of {bytes} bytes came back changed");
    }
    Ok(())
}

pub fn a_write_changes_nothing_around_it(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let buffer = memory.alloc(70)?;
    let mut want = vec![0x11u8; 70];
    memory.write(buffer, 0, &want)?;
    for (offset, length) in [(4usize, 4usize), (20, 12), (68, 2), (0, 4)] {
        let data = vec![offset as u8; length];
        memory.write(buffer, offset as u64, &data)?;
        want[offset..offset + length].copy_from_slice(&data);
        let found = memory.read(buffer, 0, 70)?;
        ensure!(
            found == want,
            "after a write of {length} bytes at {offset}: {found:02x?}"
        );
    }
    Ok(())
}

pub fn a_write_reaches_later_submits_and_no_earlier_one(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let table = memory.table([8, 8])?;
    let mut first = prepare(device, 2, vec![copy((0, 0), (1, 0), 4)])?;
    let mut second = prepare(device, 2, vec![copy((0, 0), (1, 4), 4)])?;
    memory.write(table[0], 0, &[1; 4])?;
    first.submit(&table).map_err(|e| e.to_string())?;
    memory.write(table[0], 0, &[2; 4])?;
    second.submit(&table).map_err(|e| e.to_string())?;
    let found = memory.read(table[1], 0, 8)?;
    ensure!(found == [1, 1, 1, 1, 2, 2, 2, 2], "found {found:?}");
    Ok(())
}

pub fn the_last_of_several_writes_stays(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let bytes = (3u64 << 20).min(device.info().limits.max_buffer_bytes);
    let buffer = memory.alloc(bytes)?;
    // Short and long ones, which may go different ways.
    let lengths = [bytes, bytes, bytes / 64, bytes, bytes / 2, 8];
    let mut want = vec![0u8; bytes as usize];
    for (number, length) in (1u8..).zip(lengths) {
        let length = length / 4 * 4;
        memory.write(buffer, 0, &vec![number; length as usize])?;
        want[..length as usize].fill(number);
    }
    ensure!(
        memory.read(buffer, 0, bytes)? == want,
        "an earlier write came after a later one"
    );
    Ok(())
}

pub fn misplaced_transfers_are_refused(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let buffer = memory.alloc(10)?;
    for (offset, bytes) in [(0u64, 11u64), (8, 4), (u64::MAX, 4), (u64::MAX - 3, 8)] {
        let mut data = vec![0; bytes as usize];
        let what = format!("{bytes} bytes at {offset} of 10");
        refused(
            device.write(span(buffer, offset, bytes), &data),
            &format!("writing {what}"),
        )?;
        refused(
            device.read(span(buffer, offset, bytes), &mut data),
            &format!("reading {what}"),
        )?;
    }
    refused(
        device.write(span(buffer, 0, 8), &[0; 4]),
        "writing 4 bytes as 8",
    )?;
    refused(
        device.read(span(buffer, 0, 4), &mut [0; 3]),
        "reading 4 bytes as 3",
    )
}

pub fn ids_are_never_used_twice(device: &dyn Device) -> Verdict {
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let desc = BufferDesc::new("conformance", 16);
        let id = device.alloc(&desc).map_err(|e| e.to_string())?;
        device.free(id);
        ensure!(seen.insert(id), "buffer {} was given out twice", id.0);
    }
    Ok(())
}

pub fn freed_and_unknown_buffers_are_refused(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let buffer = memory.alloc(16)?;
    device.free(buffer);
    device.free(buffer);
    device.free(BufferId(u64::MAX));
    for (buffer, what) in [
        (buffer, "a freed buffer"),
        (BufferId(u64::MAX), "no buffer"),
    ] {
        refused(
            device.write(span(buffer, 0, 4), &[0; 4]),
            &format!("writing to {what}"),
        )?;
        refused(
            device.read(span(buffer, 0, 4), &mut [0; 4]),
            &format!("reading from {what}"),
        )?;
    }
    Ok(())
}

pub fn too_much_memory_is_a_value_and_leaves_the_rest_untouched(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let kept = memory.alloc(16)?;
    memory.write(kept, 0, &[5; 16])?;
    let made = device.setup_counts().buffers;
    let wanted = device.info().limits.max_buffer_bytes.saturating_add(1);
    match device.alloc(&BufferDesc::new("cache", wanted)) {
        Err(Error::OutOfMemory {
            what,
            memory,
            wanted_bytes,
        }) => {
            let named = (what.as_str(), wanted_bytes) == ("cache", wanted);
            let info = device.info();
            let is_own = match info.members.as_slice() {
                [] => memory == info.id(),
                members => members.iter().any(|member| member.id == memory),
            };
            ensure!(named && is_own, "told {what}, {memory}, {wanted_bytes}");
        }
        Err(other) => return Err(format!("refused as {other:?}, which is not OutOfMemory")),
        Ok(buffer) => {
            device.free(buffer);
            return Err(format!(
                "{wanted} bytes were given, more than max_buffer_bytes"
            ));
        }
    }
    ensure!(
        device.setup_counts().buffers == made,
        "a refused buffer was counted"
    );
    ensure!(
        memory.read(kept, 0, 16)? == [5; 16],
        "another buffer changed"
    );
    Ok(())
}
