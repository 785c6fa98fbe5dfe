//! Sentences of the device contract, each with a name, as code: buffers, programs, replay,
//! limits. The only kernel they need is whichever row does `add`.

mod buffers;
mod limits;
mod programs;
mod replay;
mod tools;

use hadal_device::Device;

/// What is wrong, as a sentence.
pub type Verdict = Result<(), String>;

/// One sentence.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its group.
    pub group: &'static str,
    /// The sentence, as a name.
    pub name: &'static str,
    /// `Err` with what is wrong.
    pub run: fn(&dyn Device) -> Verdict,
}

macro_rules! checks {
    ($($group:ident: $($name:ident)*;)*) => {
        /// All of them.
        pub const CHECKS: &[Check] = &[$($(Check {
            group: stringify!($group),
            name: stringify!($name),
            run: $group::$name,
        },)*)*];
    };
}

checks! {
    buffers:
        bytes_come_back_as_written_whatever_their_length
        a_write_changes_nothing_around_it
        a_write_reaches_later_submits_and_no_earlier_one
        the_last_of_several_writes_stays
        misplaced_transfers_are_refused
        ids_are_never_used_twice
        freed_and_unknown_buffers_are_refused
        too_much_memory_is_a_value_and_leaves_the_rest_untouched;
    programs:
        an_empty_program_does_nothing
        copies_and_fills_keep_to_their_ranges_and_their_order
        a_step_sees_what_the_step_before_wrote
        a_step_does_not_see_what_a_later_step_writes
        slots_may_hold_the_same_buffer
        broken_programs_are_refused
        the_same_kernel_is_compiled_once
        kernels_of_other_languages_are_refused;
    replay:
        a_second_submit_sees_new_inputs_and_makes_nothing_new
        many_tables_take_turns_and_the_last_ones_cost_nothing
        programs_in_turn_do_not_disturb_each_other
        broken_tables_are_refused_and_the_device_works_on
        a_program_may_be_dropped_while_it_runs
        tickets_rise_and_finish;
    limits:
        the_device_has_what_every_kernel_assumes
        a_range_may_end_a_large_buffer
        the_longest_range_is_reached_to_its_end
        the_longest_grid_axis_is_walked_to_its_end;
}
