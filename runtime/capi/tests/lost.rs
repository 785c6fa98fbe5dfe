//! A device that is lost for good: a status, and a session that can be freed.
#![cfg(feature = "tiny")]

use std::ptr;

use hadal::{DeviceOptions, LoadOptions, Model};
use hadal_capi::{
    HadalEngine, HadalError, HadalRequest, HadalSession, HadalStatus, hadal_error_free,
    hadal_error_status, hadal_generate, hadal_session_free, hadal_session_new,
};

#[test]
fn a_device_that_is_lost_for_good_is_a_status() {
    let losing = DeviceOptions {
        lose_after_submits: Some(12),
        ..DeviceOptions::default()
    };
    let device = match hadal_engine::registry::open(Some("wgpu"), &losing) {
        Ok(opened) => opened.device,
        Err(error) => {
            println!("NOT RUN: a_device_that_is_lost_for_good_is_a_status, {error}");
            return;
        }
    };
    let model = Model::shipped().expect("the shipped model");
    let options = LoadOptions::on_open(device).with_context(256);
    let engine = HadalEngine::of(model.load(options).expect("it loads"));
    let mut session: *mut HadalSession = ptr::null_mut();
    let mut error: *mut HadalError = ptr::null_mut();
    let request = HadalRequest {
        size: size_of::<HadalRequest>(),
        text: c"Once upon a time".as_ptr(),
        max_tokens: 60,
        // SAFETY: all zeros are the default of everything else.
        ..unsafe { std::mem::zeroed() }
    };
    // SAFETY: all pointers are valid, and freed handles are not used again.
    unsafe {
        let begun = hadal_session_new(
            &raw const engine,
            ptr::null(),
            &raw mut session,
            &raw mut error,
        );
        assert_eq!(begun, HadalStatus::Ok);
        for _ in 0..2 {
            let status = hadal_generate(
                session,
                &raw const request,
                None,
                ptr::null_mut(),
                ptr::null_mut(),
                &raw mut error,
            );
            assert_eq!(status, HadalStatus::DeviceLost);
            assert_eq!(hadal_error_status(error), HadalStatus::DeviceLost);
            hadal_error_free(error);
        }
        hadal_session_free(session);
    }
}
