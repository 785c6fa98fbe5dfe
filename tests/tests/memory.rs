//! What a step takes beside weights and cache: temporaries grow with its tokens and not with
//! the context, so no score matrix of tokens by positions exists anywhere.

use std::ops::ControlFlow;
use std::sync::Arc;

use hadal_engine::{Engine, EngineOptions, Form, Kind, Model};
use hadal_tests::checkpoint::Family;
use hadal_tests::devices;
use hadal_weights::Checkpoint;

fn model() -> Arc<Model> {
    let family = Family::V3;
    let file = ("m".to_string(), Arc::new(family.safetensors(7)) as _);
    let source = Checkpoint::from_pages(vec![file]).expect("the small checkpoint opens");
    let mut config = family.config();
    config.max_position_embeddings = 8192;
    let text = Err("a small checkpoint has no tokenizer".to_string());
    Arc::new(Model::new(config, Arc::new(source), text).expect("it binds"))
}

#[test]
fn temporaries_of_a_prompt_do_not_grow_with_the_context() {
    let model = model();
    for named in devices::all() {
        let scratch = |tokens: u32, context: u32, form: Form| {
            let options = EngineOptions {
                context: Some(context),
                chunk: tokens,
                form: Some(form),
                ..EngineOptions::default()
            };
            let mut quiet = |_| ControlFlow::Continue(());
            let device = named.device.clone();
            let engine = Engine::load(model.clone(), device, named.fit(options), &mut quiet);
            let engine = engine.unwrap_or_else(|e| panic!("{}: {e}", named.name));
            let lowered = engine.explain(Kind::Main, engine.options().chunk);
            let lowered = lowered.unwrap_or_else(|e| panic!("{}: {e}", named.name));
            (engine.options().chunk, lowered.scratch_bytes)
        };
        let mut forms = vec![Form::Absorbed];
        if named.device.info().expand_from_tokens.is_some() {
            forms.push(Form::Expanded);
        }
        for form in forms {
            let (tokens, short) = scratch(512, 512, form);
            let (_, long) = scratch(512, 8192, form);
            assert_eq!(short, long, "{}, {form:?}, {tokens} tokens", named.name);
            let (half, less) = scratch(256, 8192, form);
            // Twice the tokens take no more than twice the memory, less what is constant.
            let most = less * u64::from(tokens) / u64::from(half) + 4096;
            assert!(long <= most, "{}, {form:?}: {less} to {long}", named.name);
            // The longest step there is: eight times what 512 tokens take, not 64 times.
            let (all, whole) = scratch(4096, 8192, form);
            println!(
                "{}, {form:?}: {tokens} tokens at once take {short} bytes with a context of 512 \
                 and {long} with 8192; {all} at once take {whole}",
                named.name
            );
            let most = short * u64::from(all) / u64::from(tokens) + 4096;
            assert!(
                whole <= most,
                "{}, {form:?}: {short} to {whole}",
                named.name
            );
        }
    }
}
