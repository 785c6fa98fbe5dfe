//! Several devices of one backend as one, for a model that no one of them can hold.
//!
//! Decides where a buffer lies and on which member a program runs; what belongs on which member is
//! its user's choice ([`hadal_device::BufferDesc::member`], [`hadal_device::Stage`]). Must not know
//! kernels, vendors or models. Read `program.rs` first.
#![forbid(unsafe_code)]

mod backend;
mod buffers;
mod device;
mod program;
mod tickets;

use std::sync::Arc;

use hadal_device::{Device, DeviceInfo, Error, Limits, Member, Result};

pub use crate::backend::GroupBackend;
use crate::device::Group;

/// `devices` as one device, whose name is theirs with `+` between. One alone stays as it is.
///
/// Programs of the group take the kernels that all members have, within the limits that all
/// have. A buffer lies on the member that was asked for, or on each; what the host writes goes to
/// each. [`Device::prepare`] runs a program where its buffers lie, on each member where they lie on
/// each; [`Device::prepare_stage`] where it says.
///
/// # Errors
/// [`Error::Unsupported`] for devices of several backends, or whose kernels are made for other
/// subgroups or matrix units, and for one with memory of its own that stands twice;
/// [`Error::Invalid`] for none.
pub fn join(mut devices: Vec<Arc<dyn Device>>) -> Result<Arc<dyn Device>> {
    if devices.len() <= 1 {
        let none = || Error::Invalid("a group of no device".into());
        return devices.pop().ok_or_else(none);
    }
    let infos: Vec<&DeviceInfo> = devices.iter().map(|device| device.info()).collect();
    let info = join_info(&infos)?;
    Ok(Arc::new(Group::new(devices, info)))
}

/// What the devices of `infos` are together.
pub(crate) fn join_info(infos: &[&DeviceInfo]) -> Result<DeviceInfo> {
    let Some((first, others)) = infos.split_first() else {
        return Err(Error::Invalid("a group of no device".into()));
    };
    let mut joined = DeviceInfo::clone(first);
    if others.is_empty() {
        return Ok(joined);
    }
    for (number, other) in others.iter().enumerate() {
        check_alike(first, other)?;
        let is_same = |info: &&DeviceInfo| info.id() == other.id();
        if other.kind.has_own_memory() && infos[..=number].iter().any(is_same) {
            return Err(Error::Unsupported {
                what: format!("a model on {0} and {0} together", other.id()),
                why: "its memory is there once".to_string(),
            });
        }
        joined.limits = least(joined.limits, other.limits);
        joined.features = joined
            .features
            .without(joined.features.without(other.features));
        joined.expand_from_tokens = joined
            .expand_from_tokens
            .zip(other.expand_from_tokens)
            .map(|it| it.0.max(it.1));
        joined.memory_bytes = joined
            .memory_bytes
            .zip(other.memory_bytes)
            .map(|it| it.0.saturating_add(it.1));
    }
    let member = |info: &&DeviceInfo| Member {
        id: info.id(),
        memory_bytes: info.memory_bytes,
    };
    joined.ordinal = 0;
    joined.members = infos.iter().map(member).collect();
    let is_other = |info: &&DeviceInfo| info.name != first.name;
    joined.name = match infos.iter().any(is_other) {
        true => infos
            .iter()
            .map(|info| info.name.as_str())
            .collect::<Vec<_>>()
            .join(" + "),
        false => format!("{} x {}", infos.len(), first.name),
    };
    Ok(joined)
}

/// Kernels and their grids are chosen once for all members.
fn check_alike(one: &DeviceInfo, other: &DeviceInfo) -> Result<()> {
    let shape = |info: &DeviceInfo| (info.limits.subgroup, info.limits.matrix);
    let why = match () {
        () if !one.members.is_empty() || !other.members.is_empty() => {
            "one of them is a group already"
        }
        () if one.backend != other.backend => "they are of two backends",
        () if one.kind != other.kind => "they are of two kinds",
        () if shape(one) != shape(other) => "their subgroups or matrix units differ in size",
        () => return Ok(()),
    };
    Err(Error::Unsupported {
        what: format!("a model on {} and {} together", one.id(), other.id()),
        why: why.to_string(),
    })
}

fn least(one: Limits, other: Limits) -> Limits {
    Limits {
        max_binding_bytes: one.max_binding_bytes.min(other.max_binding_bytes),
        max_buffer_bytes: one.max_buffer_bytes.min(other.max_buffer_bytes),
        offset_align: one.offset_align.max(other.offset_align),
        max_operands: one.max_operands.min(other.max_operands),
        max_workgroup: one.max_workgroup.min(other.max_workgroup),
        max_grid: one.max_grid.min(other.max_grid),
        shared_bytes: one.shared_bytes.min(other.shared_bytes),
        subgroup: one.subgroup,
        matrix: one.matrix,
    }
}
