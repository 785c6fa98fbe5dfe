//! Devices that stand before another one: what they leave alone.

/// Inside an `impl Device`: the named methods, each passed on to the device in field `$inner`.
#[macro_export]
macro_rules! pass_on {
    ($inner:tt: $($method:ident)*) => { $($crate::pass_on!(@$method $inner);)* };
    (@info $inner:tt) => {
        fn info(&self) -> &hadal_device::DeviceInfo {
            self.$inner.info()
        }
    };
    (@alloc $inner:tt) => {
        fn alloc(&self, desc: &hadal_device::BufferDesc) -> hadal_device::Result<hadal_device::BufferId> {
            self.$inner.alloc(desc)
        }
    };
    (@free $inner:tt) => {
        fn free(&self, buffer: hadal_device::BufferId) {
            self.$inner.free(buffer);
        }
    };
    (@write $inner:tt) => {
        fn write(&self, to: hadal_device::Span, bytes: &[u8]) -> hadal_device::Result<()> {
            self.$inner.write(to, bytes)
        }
    };
    (@read $inner:tt) => {
        fn read(&self, from: hadal_device::Span, bytes: &mut [u8]) -> hadal_device::Result<()> {
            self.$inner.read(from, bytes)
        }
    };
    (@pipeline $inner:tt) => {
        fn pipeline(
            &self,
            name: &str,
            body: &hadal_device::Body,
            constants: &[(&'static str, u32)],
        ) -> hadal_device::Result<hadal_device::PipelineId> {
            self.$inner.pipeline(name, body, constants)
        }
    };
    (@prepare $inner:tt) => {
        fn prepare(
            &self,
            program: &hadal_device::Program,
        ) -> hadal_device::Result<Box<dyn hadal_device::Executable>> {
            self.$inner.prepare(program)
        }

        fn prepare_stage(
            &self,
            program: &hadal_device::Program,
            stage: &hadal_device::Stage,
        ) -> hadal_device::Result<Box<dyn hadal_device::Executable>> {
            self.$inner.prepare_stage(program, stage)
        }
    };
    (@wait $inner:tt) => {
        fn wait(&self, ticket: hadal_device::Ticket) -> hadal_device::Result<()> {
            self.$inner.wait(ticket)
        }
    };
    (@completed $inner:tt) => {
        fn completed(&self) -> hadal_device::Ticket {
            self.$inner.completed()
        }
    };
    (@adopt $inner:tt) => {
        fn adopt(&self, pages: hadal_device::Pages) -> Option<hadal_device::BufferId> {
            self.$inner.adopt(pages)
        }
    };
    (@setup_counts $inner:tt) => {
        fn setup_counts(&self) -> hadal_device::SetupCounts {
            self.$inner.setup_counts()
        }
    };
    (@gpu_time $inner:tt) => {
        fn gpu_time(&self, ticket: hadal_device::Ticket) -> Option<std::time::Duration> {
            self.$inner.gpu_time(ticket)
        }
    };
    (@notes $inner:tt) => {
        fn notes(&self) -> Vec<String> {
            self.$inner.notes()
        }
    };
    (@submit_cost $inner:tt) => {
        fn submit_cost(&self) -> hadal_device::SubmitCost {
            self.$inner.submit_cost()
        }
    };
}
