//! Buffers of a group, and programs on one member and on each.

use std::sync::Arc;

use hadal_device::{
    Access, Backend, Bind, BufferDesc, BufferId, Device, Error, Program, Slot, Span, Stage, Step,
    Ticket,
};
use hadal_host::HostBackend;

/// More than what goes through the host's memory at once, and no multiple of it.
const BYTES: u64 = (20 << 20) + 12;

fn group() -> Arc<dyn Device> {
    let host = || {
        HostBackend::new()
            .with_threads(1)
            .open(0)
            .expect("the host always opens")
    };
    hadal_group::join(vec![host(), host(), host()]).expect("they are alike")
}

fn alloc(device: &dyn Device, member: Option<u16>) -> BufferId {
    let desc = BufferDesc::new("test", BYTES).on(member);
    device.alloc(&desc).expect("memory")
}

fn bind(slot: u16, access: Access) -> Bind {
    Bind {
        slot: Slot(slot),
        offset: 0,
        bytes: BYTES,
        access,
    }
}

fn program(slots: u16, step: Step) -> Program {
    Program {
        slots,
        steps: vec![step],
    }
}

fn fill(byte: u8) -> Program {
    let to = bind(0, Access::Write);
    program(1, Step::Fill { to, byte })
}

/// From slot 0 to slot 1.
fn copy() -> Program {
    let (from, to) = (bind(0, Access::Read), bind(1, Access::Write));
    program(2, Step::Copy { from, to })
}

fn read(device: &dyn Device, buffer: BufferId) -> Vec<u8> {
    let mut bytes = vec![0; BYTES as usize];
    let span = Span {
        buffer,
        offset: 0,
        bytes: BYTES,
    };
    device.read(span, &mut bytes).expect("a read");
    bytes
}

/// Runs `program` on `member`, after slot 0 was carried there if so wanted.
fn run(
    device: &dyn Device,
    program: &Program,
    member: u16,
    carries: bool,
    table: &[BufferId],
) -> Ticket {
    let carried = carries.then(|| bind(0, Access::Write));
    let stage = Stage {
        member,
        carried: carried.into_iter().collect(),
    };
    let prepared = device.prepare_stage(program, &stage);
    let ticket = prepared.expect("it is legal").submit(table);
    ticket.expect("it runs")
}

#[test]
fn what_a_member_wrote_is_read_and_is_carried_whole() {
    let device = group();
    let shared = alloc(device.as_ref(), None);
    let pattern: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let whole = Span {
        buffer: shared,
        offset: 0,
        bytes: BYTES,
    };
    device.write(whole, &pattern).expect("a write");
    let own: Vec<BufferId> = (0..3)
        .map(|member| alloc(device.as_ref(), Some(member)))
        .collect();
    // What the host wrote is on each.
    for (member, own) in (0..).zip(&own) {
        run(device.as_ref(), &copy(), member, false, &[shared, *own]);
        assert!(read(device.as_ref(), *own) == pattern);
    }
    let first = run(device.as_ref(), &fill(7), 2, false, &[shared]);
    assert!(read(device.as_ref(), shared) == vec![7; BYTES as usize]);
    run(device.as_ref(), &copy(), 1, false, &[shared, own[1]]);
    assert!(
        read(device.as_ref(), own[1]) == pattern,
        "nothing was carried"
    );
    let last = run(device.as_ref(), &copy(), 0, true, &[shared, own[0]]);
    assert!(read(device.as_ref(), own[0]) == vec![7; BYTES as usize]);
    assert!(first < last);
    device.wait(last).expect("it is done");
    assert_eq!(device.completed(), last);
    let never = device.wait(Ticket(last.0 + 1));
    assert!(matches!(never, Err(Error::Invalid(_))), "{never:?}");
}

#[test]
fn a_copy_of_what_a_member_wrote_is_as_new() {
    let device = group();
    let [from, to] = [(); 2].map(|()| alloc(device.as_ref(), None));
    run(device.as_ref(), &fill(1), 1, false, &[to]);
    run(device.as_ref(), &fill(9), 2, false, &[from]);
    let mut copied = device.prepare(&copy()).expect("it is legal");
    copied.submit(&[from, to]).expect("it runs");
    assert!(read(device.as_ref(), to) == vec![9; BYTES as usize]);
}

#[test]
fn a_program_that_no_member_can_run_is_refused() {
    let device = group();
    let [one, other, shared] = [Some(0), Some(1), None].map(|it| alloc(device.as_ref(), it));
    let mut copied = device.prepare(&copy()).expect("it is legal");
    for table in [[one, other], [one, shared]] {
        let refused = copied.submit(&table);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    copied.submit(&[shared, one]).expect("one member has both");
    let stage = Stage {
        member: 2,
        carried: Vec::new(),
    };
    let mut away = device.prepare_stage(&copy(), &stage).expect("it is legal");
    assert!(matches!(
        away.submit(&[shared, one]),
        Err(Error::Invalid(_))
    ));
    let stage = Stage { member: 3, ..stage };
    let refused = device.prepare_stage(&copy(), &stage).err();
    assert!(matches!(refused, Some(Error::Invalid(_))));
    let desc = BufferDesc::new("test", 4).on(Some(3));
    assert!(matches!(device.alloc(&desc), Err(Error::Invalid(_))));
}
