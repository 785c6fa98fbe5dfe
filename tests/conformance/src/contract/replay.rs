//! Prepared programs submitted again: nothing is set up twice, nothing stale is read.

use hadal_device::{BufferId, Device, Error, KEPT_TABLES, Ticket};

use super::Verdict;
use super::tools::*;

pub fn a_second_submit_sees_new_inputs_and_makes_nothing_new(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let n = 300u32;
    let in_place = Add {
        slots: [3, 2, 3],
        ..Add::values(n)
    };
    let steps = vec![
        Add::values(n).step(device)?,
        fill(1, 0, 4, 7),
        in_place.step(device)?,
    ];
    let table = memory.table([64, 1200, 1200, 1200])?;
    let mut executable = prepare(device, 4, steps)?;
    let mut warm = None;
    for seed in [1.5f32, 2.5, 2.5, -3.0] {
        let a: Vec<f32> = (0..n).map(|i| seed + i as f32).collect();
        let b: Vec<f32> = (0..n).map(|i| seed * i as f32).collect();
        memory.write(table[1], 0, &floats(&a))?;
        memory.write(table[2], 0, &floats(&b))?;
        submit(device, &mut executable, &table)?;
        let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b + b).collect();
        ensure!(
            memory.read(table[3], 0, 1200)? == floats(&want),
            "wrong sums for {seed}"
        );
        let counts = device.setup_counts();
        let known = *warm.get_or_insert(counts);
        ensure!(
            counts == known,
            "something was set up again: {known:?}, then {counts:?}"
        );
    }
    Ok(())
}

pub fn many_tables_take_turns_and_the_last_ones_cost_nothing(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let mut executable = prepare(device, 4, vec![Add::values(4).step(device)?])?;
    let [inputs, shared] = memory.table([64, 16])?;
    memory.write(shared, 0, &floats(&[1.0, 2.0, 3.0, 4.0]))?;
    let mut tables = Vec::new();
    for _ in 0..KEPT_TABLES {
        tables.push([inputs, shared, shared, memory.alloc(16)?]);
    }
    let mut warm = None;
    for (turn, table) in tables.iter().chain(&tables).enumerate() {
        memory.write(table[3], 0, &[0xff; 16])?;
        submit(device, &mut executable, table)?;
        let right = memory.read(table[3], 0, 16)? == floats(&[2.0, 4.0, 6.0, 8.0]);
        ensure!(right, "wrong sums in turn {turn}");
        if turn >= KEPT_TABLES {
            let counts = device.setup_counts();
            let known = *warm.get_or_insert(counts);
            ensure!(
                counts == known,
                "turn {turn} set up something: {known:?}, then {counts:?}"
            );
        }
    }
    Ok(())
}

pub fn programs_in_turn_do_not_disturb_each_other(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let table = memory.table([64, 16, 16, 16])?;
    let mut double = prepare(
        device,
        4,
        vec![
            Add {
                slots: [1, 1, 2],
                ..Add::values(4)
            }
            .step(device)?,
            copy((2, 0), (1, 0), 16),
        ],
    )?;
    let mut add = prepare(
        device,
        4,
        vec![
            Add {
                slots: [3, 1, 3],
                ..Add::values(4)
            }
            .step(device)?,
        ],
    )?;
    memory.write(table[1], 0, &floats(&[1.0; 4]))?;
    memory.write(table[3], 0, &floats(&[0.0; 4]))?;
    for _ in 0..10 {
        double.submit(&table).map_err(|e| e.to_string())?;
        add.submit(&table).map_err(|e| e.to_string())?;
    }
    // 2 + 4 + ... + 1024
    let found = memory.read(table[3], 0, 16)?;
    ensure!(found == floats(&[2046.0; 4]), "found {found:02x?}");
    Ok(())
}

pub fn broken_tables_are_refused_and_the_device_works_on(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let mut executable = prepare(device, 4, vec![Add::values(4).step(device)?])?;
    let good = memory.table([64, 16, 16, 16])?;
    let [short, freed] = memory.table([8, 16])?;
    device.free(freed);
    let none = BufferId(u64::MAX);
    for (table, what) in [
        (good[..3].to_vec(), "a table that is too short"),
        (
            vec![good[0], short, good[2], good[3]],
            "a buffer that is too short",
        ),
        (vec![good[0], freed, good[2], good[3]], "a freed buffer"),
        (
            vec![good[0], none, good[2], good[3]],
            "a buffer that never was",
        ),
    ] {
        refused(executable.submit(&table), what)?;
    }
    memory.write(good[1], 0, &floats(&[1.0; 4]))?;
    memory.write(good[2], 0, &floats(&[2.0; 4]))?;
    submit(device, &mut executable, &good)?;
    ensure!(
        memory.read(good[3], 0, 16)? == floats(&[3.0; 4]),
        "the good table gave a wrong sum"
    );
    Ok(())
}

pub fn a_program_may_be_dropped_while_it_runs(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let n = 1u32 << 16;
    let bytes = 4 * u64::from(n);
    let table = memory.table([64, bytes, bytes, bytes])?;
    memory.write(table[1], 0, &floats(&vec![1.0; n as usize]))?;
    memory.write(table[2], 0, &floats(&vec![2.0; n as usize]))?;
    for _ in 0..5 {
        memory.write(table[3], 0, &vec![0xff; bytes as usize])?;
        let mut executable = prepare(device, 4, vec![Add::values(n).step(device)?; 8])?;
        executable.submit(&table).map_err(|e| e.to_string())?;
        drop(executable);
        let right = memory.read(table[3], 0, bytes)? == floats(&vec![3.0; n as usize]);
        ensure!(right, "its work was lost");
    }
    Ok(())
}

pub fn tickets_rise_and_finish(device: &dyn Device) -> Verdict {
    let mut memory = Memory::of(device);
    let mut executable = prepare(device, 1, vec![fill(0, 0, 1 << 20, 3)])?;
    let buffer = memory.alloc(1 << 20)?;
    let mut tickets = Vec::new();
    for _ in 0..50 {
        tickets.push(executable.submit(&[buffer]).map_err(|e| e.to_string())?);
    }
    ensure!(
        tickets.is_sorted_by(|a, b| a < b),
        "tickets do not rise: {tickets:?}"
    );
    let last = tickets[49];
    for ticket in [last, tickets[3]] {
        device
            .wait(ticket)
            .map_err(|e| format!("waiting for {}: {e}", ticket.0))?;
    }
    // Word of the end may come from another thread, an instant later.
    for _ in 0..2000 {
        if device.completed() >= last {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let completed = device.completed();
    ensure!(
        completed >= last,
        "{} was waited for, {} is completed",
        last.0,
        completed.0
    );
    match device.wait(Ticket(last.0 + 1000)) {
        Err(Error::Invalid(_)) => Ok(()),
        other => Err(format!("waiting for a ticket never given: {other:?}")),
    }
}
