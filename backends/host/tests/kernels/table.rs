//! The kernel table: complete, unambiguous, resolvable.

use hadal_device::{Backend, Body, DType, Features, KernelRow, OpKind, Params, Problem, select};
use hadal_host::HostBackend;

use crate::stage::{WEIGHTS, devices};

fn host_rows() -> impl Iterator<Item = &'static KernelRow> {
    hadal_shaders::table()
        .iter()
        .filter(|row| row.needs.has(Features::HOST))
}

#[test]
fn every_operation_has_a_scalar_row_for_every_format() {
    let scalar = HostBackend::new().with_isa(hadal_host::Isa::Scalar);
    let info = &scalar.devices().unwrap()[0];
    let weightless = |op: OpKind| {
        use OpKind::*;
        [
            Rope,
            CacheAppend,
            AttendLatent,
            ExpertOffsets,
            Permute,
            Combine,
            SwiGlu,
            Add,
            Copy,
            Gather,
            Argmax,
            ActQuant,
        ]
        .contains(&op)
    };
    for (op, name) in OpKind::ALL.iter().filter(|(op, _)| !op.is_optional()) {
        for weight in WEIGHTS {
            if weightless(*op) && weight != DType::F32 {
                continue;
            }
            // No checkpoint has these in FP8.
            if matches!(op, OpKind::Norm | OpKind::Route) && weight == DType::F8E4M3 {
                continue;
            }
            let params = Params {
                rows: 1,
                n: 64,
                k: 64,
                heads: 1,
                experts: 1,
                expert_count: 1,
                row_count: 64,
                ..Params::default()
            };
            let problem = Problem {
                op: *op,
                weight,
                params,
            };
            let choice = select(hadal_shaders::table(), info, &problem);
            assert!(choice.is_ok(), "{name} {weight}: {:?}", choice.err());
        }
    }
}

#[test]
fn every_host_row_names_a_function_that_runs_where_the_row_says() {
    for (_, device) in devices() {
        for row in host_rows() {
            let has = device.info().features.has(row.needs);
            let pipeline = device.pipeline(row.name, &row.body, &[]);
            assert_eq!(pipeline.is_ok(), has, "{}: {pipeline:?}", row.name);
        }
    }
    for row in host_rows() {
        assert_eq!(row.body, Body::Host(row.name));
    }
}

#[test]
fn row_names_are_unique() {
    let mut names: Vec<_> = hadal_shaders::table().iter().map(|row| row.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn launches_stay_within_the_limits_and_cover_every_output() {
    let info = &HostBackend::new().devices().unwrap()[0];
    for row in host_rows() {
        for rows in [1, 7, 512] {
            let params = Params {
                rows,
                n: 7168,
                k: 2048,
                heads: 128,
                rope: 64,
                latent: 512,
                experts: 256,
                expert_count: 256,
                row_count: 7168,
                ..Params::default()
            };
            let problem = Problem {
                op: row.op,
                weight: DType::F32,
                params,
            };
            let launch = (row.launch)(&problem, info);
            assert!(
                launch
                    .groups
                    .iter()
                    .all(|n| (1..=info.limits.max_grid).contains(n)),
                "{}",
                row.name
            );
        }
    }
}
