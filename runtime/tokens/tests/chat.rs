//! Conversations to prompts: own small cases, the published ones where they are at hand, and
//! templates that mean harm.

mod common;

use common::{BOS, EOS, tokenizer_config_json, tokenizer_json};
use hadal_tokens::{ChatFamily, ChatTemplate, RenderOptions, TextModel, TokensError};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Options as the cases write them.
fn options(value: &Value) -> RenderOptions {
    RenderOptions {
        add_generation_prompt: value["add_generation_prompt"].as_bool().unwrap_or(false),
        thinking: value["thinking"].as_bool(),
        tools: value.get("tools").cloned(),
        ..RenderOptions::default()
    }
}

fn built_in(family: &str) -> ChatTemplate {
    let family = ChatFamily::from_name(family).unwrap();
    ChatTemplate::new(family.template(), BOS, EOS).unwrap()
}

fn render(template: &str, messages: &Value) -> Result<String, TokensError> {
    ChatTemplate::new(template, BOS, EOS)?.render(messages, &RenderOptions::default())
}

fn hi() -> Value {
    json!([{"role": "user", "content": "hi"}])
}

#[test]
fn every_family_writes_its_published_prompt() {
    let turns = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>Hello"},
        {"role": "user", "content": "<b>&amp; \"x\""}
    ]);
    let start = format!("{BOS}Be brief.\n\nBe kind.<｜User｜>hi<｜Assistant｜>");
    let end = format!("Hello{EOS}<｜User｜><b>&amp; \"x\"");
    let answer = json!({"add_generation_prompt": true});
    let think = json!({"add_generation_prompt": true, "thinking": true});
    for (family, options_json, between, after) in [
        ("v3", &answer, "", "<｜Assistant｜>"),
        ("v3", &json!({}), "", ""),
        ("r1", &answer, "", "<｜Assistant｜><think>\n"),
        ("r1", &json!({}), "", ""),
        ("v3.1", &answer, "</think>", "<｜Assistant｜></think>"),
        ("v3.1", &think, "</think>", "<｜Assistant｜><think>"),
        ("v3.1", &json!({}), "</think>", ""),
    ] {
        let text = built_in(family)
            .render(&turns, &options(options_json))
            .unwrap();
        assert_eq!(text, format!("{start}{between}{end}{after}"), "{family}");
    }
}

/// Two calls in one turn, their results, an answer, then a second round of calls.
fn tool_turns() -> Value {
    let call = |name: &str, arguments: Value| json!({"type": "function", "function": {"name": name, "arguments": arguments}});
    json!([
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "tool_calls": [
            call("f", json!("{\"a\": 1}")), call("g", json!({"b": [2]}))]},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "done"},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "wait", "tool_calls": [call("h", json!("{}"))]},
        {"role": "tool", "content": "three"}
    ])
}

#[test]
fn every_round_of_tool_calls_is_opened_and_closed() {
    let fenced = |name: &str, arguments: &str| {
        format!(
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
        )
    };
    let output = |text: &str| format!("<｜tool▁output▁begin｜>{text}<｜tool▁output▁end｜>");
    let expected = format!(
        "{BOS}<｜User｜>q<｜Assistant｜><｜tool▁calls▁begin｜>{}\n{}<｜tool▁calls▁end｜>{EOS}\
         <｜tool▁outputs▁begin｜>{}{}<｜tool▁outputs▁end｜>done{EOS}\
         <｜User｜>again<｜Assistant｜>wait<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>{EOS}\
         <｜tool▁outputs▁begin｜>{}<｜tool▁outputs▁end｜>",
        fenced("f", "{\"a\": 1}"),
        fenced("g", "{\"b\": [2]}"),
        output("one"),
        output("two"),
        fenced("h", "{}"),
        output("three"),
    );
    for family in ["v3", "r1"] {
        let text = built_in(family).render(&tool_turns(), &RenderOptions::default());
        assert_eq!(text.unwrap(), expected, "{family}");
    }

    let bare = |name: &str, arguments: &str| {
        format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>")
    };
    let expected = format!(
        "{BOS}<｜User｜>q<｜Assistant｜></think><｜tool▁calls▁begin｜>{}{}<｜tool▁calls▁end｜>{EOS}\
         {}{}done{EOS}\
         <｜User｜>again<｜Assistant｜></think>wait<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>{EOS}{}",
        bare("f", "{\"a\": 1}"),
        bare("g", "{\"b\": [2]}"),
        output("one"),
        output("two"),
        bare("h", "{}"),
        output("three"),
    );
    let text = built_in("v3.1").render(&tool_turns(), &RenderOptions::default());
    assert_eq!(text.unwrap(), expected);
}

#[test]
fn tool_descriptions_follow_the_system_text_where_the_format_has_them() {
    let tools = json!([{"type": "function", "function": {"name": "f",
        "description": "Does <f>", "parameters": {"type": "object", "properties": {}}}}]);
    let with_tools = options(&json!({"add_generation_prompt": true, "tools": tools}));
    let text = built_in("v3.1").render(&hi(), &with_tools).unwrap();
    let head = format!(
        "{BOS}\n\n## Tools\nYou have access to the following tools:\n\n### f\nDescription: Does <f>\n\n\
         Parameters: {{\"type\": \"object\", \"properties\": {{}}}}\n\nIMPORTANT: "
    );
    assert!(text.starts_with(&head), "{text}");
    assert!(text.contains("{{additional_tool_calls}}"), "{text}");
    assert!(
        text.ends_with("<｜User｜>hi<｜Assistant｜></think>"),
        "{text}"
    );
    for family in ["v3", "r1"] {
        let error = built_in(family).render(&hi(), &with_tools).unwrap_err();
        assert!(matches!(error, TokensError::Refused { .. }), "{error}");
    }
}

#[test]
fn content_may_come_in_parts() {
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]);
    assert_eq!(render("{{ messages[0].content }}", &parts).unwrap(), "a\nb");
}

#[test]
fn what_is_no_conversation_is_refused_with_the_place() {
    for (messages, place) in [
        (json!("hi"), "messages must"),
        (json!([]), "messages is empty"),
        (json!([1]), "messages[0] must"),
        (
            json!([{"role": "user"}, {"content": "x"}]),
            "messages[1].role",
        ),
        (
            json!([{"role": "user", "content": 3}]),
            "messages[0].content",
        ),
        (
            json!([{"role": "user", "content": [{"image": 1}]}]),
            "messages[0].content has",
        ),
    ] {
        let error = render("x", &messages).unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    }
    let stranger = json!([{"role": "narrator", "content": "x"}]);
    for family in ["v3", "r1", "v3.1"] {
        let error = built_in(family)
            .render(&stranger, &RenderOptions::default())
            .unwrap_err();
        assert!(error.to_string().contains("narrator"), "{error}");
    }
}

#[test]
fn templates_written_for_python_work() {
    let template = "{% set ns = namespace(n=0) %}\n    {% for m in messages %}\n\
        {% set ns.n = ns.n + 1 %}{% if loop.first %}{% continue %}{% endif %}\n{% endfor %}\n\
        {{ ns.n }} {{ ' x '.strip() }} {{ 'a,b'.split(',')[-1] }} {{ messages[0]['content'].upper() }} \
        {{ messages[0].get('name', 'none') }} {{ 'name' in messages[0] }} {{ x is defined }} \
        {% for k, v in messages[0].items() %}{{ k }}{% endfor %} {{ messages[::-1][0].role }}\
        {{ 'abc'[1:] }} {{ '{} {}'.format(1, 'z') }} {{ strftime_now('%Y') }}";
    let options = RenderOptions {
        now_unix_seconds: Some(0),
        ..RenderOptions::default()
    };
    let text = ChatTemplate::new(template, BOS, EOS)
        .unwrap()
        .render(&hi(), &options)
        .unwrap();
    assert_eq!(
        text,
        "1 x b HI none False False rolecontent userbc 1 z 1970"
    );
}

#[test]
fn the_words_of_a_refusing_template_are_passed_on() {
    let error = render("{{ raise_exception('no system, please') }}", &hi()).unwrap_err();
    let message = "no system, please".to_owned();
    assert_eq!(error, TokensError::Refused { message });
}

#[test]
fn a_template_that_would_never_end_or_fill_the_memory_is_stopped() {
    for harm in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'x' * 99999999 }}{{ 'x' * 99999999 }}{{ 'x' * 99999999 }}",
        "{{ ('x' * 999999).replace('x', 'y' * 999999) }}",
        "{{ ('x' * 999999)|replace('x', 'y' * 999999) }}",
        "{{ ([0] * 99999999)|tojson }}",
        "{{ ([[0] * 99999] * 99999)|tojson }}",
        "{{ ('y' * 9999).join(range(99999)) }}",
        "{{ (['y' * 9999] * 99999)|join('z' * 9999) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '%999999999d'|format(1) }}{{ '%999999999d'|format(1) }}",
        "{{ 'x'|indent(999999999, true) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'x'.center(999999999) }}",
        "{{ [0]|batch(999999999, 1)|list }}",
        "{{ range(99999)|slice(99999999)|list }}",
    ] {
        let started = std::time::Instant::now();
        let error = render(harm, &hi()).unwrap_err();
        assert!(
            matches!(error, TokensError::Template { .. }),
            "{harm}: {error}"
        );
        // Seconds even unoptimised on a busy machine; without bounds it would be hours.
        assert!(started.elapsed().as_secs() < 20, "{harm}");
    }
}

#[test]
fn a_long_conversation_is_within_the_bounds() {
    let mut turns = Vec::new();
    for n in 0..2000 {
        turns.push(json!({"role": "user", "content": format!("{n} {}", "word ".repeat(100))}));
        turns.push(json!({"role": "assistant", "content": "answer ".repeat(100)}));
    }
    for family in ["v3", "r1", "v3.1"] {
        let text = built_in(family)
            .render(&Value::Array(turns.clone()), &RenderOptions::default())
            .unwrap();
        assert!(text.len() > 2_000_000);
    }
}

#[test]
fn a_model_without_template_says_so_and_takes_a_built_in_one() {
    let mut model = TextModel::from_bytes(
        tokenizer_json().to_string().as_bytes(),
        Some(tokenizer_config_json().as_bytes()),
        None,
    )
    .unwrap();
    let none = model.render(&hi(), &RenderOptions::default()).unwrap_err();
    assert_eq!(none, TokensError::NoChatTemplate);
    model.set_chat_family(ChatFamily::R1).unwrap();
    let prompt = model.render(&hi(), &RenderOptions::default()).unwrap();
    assert_eq!(
        prompt.text,
        format!("{BOS}<｜User｜>hi<｜Assistant｜><think>\n")
    );
    let (h, i, newline) = (b'h'.into(), b'i'.into(), b'\n'.into());
    assert_eq!(prompt.ids, [262, 266, h, i, 267, 264, newline]);
}

#[test]
fn a_rendered_prompt_has_bos_once_even_if_the_person_wrote_it() {
    let model = |template: &str| {
        TextModel::from_bytes(
            tokenizer_json().to_string().as_bytes(),
            Some(tokenizer_config_json().as_bytes()),
            Some(template),
        )
        .unwrap()
    };
    let messages = json!([{"role": "user", "content": format!("{BOS}hi")}]);
    for template in [
        "{{ bos_token }}{{ messages[0].content }}",
        "{{ messages[0].content }}",
    ] {
        let prompt = model(template)
            .render(&messages, &RenderOptions::default())
            .unwrap();
        assert_eq!(prompt.text, format!("{BOS}hi"));
        assert_eq!(prompt.ids, [262, b'h'.into(), b'i'.into()]);
    }
}

#[test]
fn the_published_prompts_come_out_exactly() {
    let name = "the_published_prompts_come_out_exactly";
    let Ok(golden) = std::env::var("HADAL_GOLDEN") else {
        eprintln!("{name} did not run: set HADAL_GOLDEN to the folder of golden cases");
        return;
    };
    // The family brings its special tokens: the tokenizer alone must do.
    let model = std::env::var("HADAL_TOKENIZER")
        .ok()
        .map(|path| TextModel::from_bytes(&std::fs::read(path).unwrap(), None, None).unwrap());
    if model.is_none() {
        eprintln!(
            "{name} did not compare ids: set HADAL_TOKENIZER to a DeepSeek-V3 tokenizer.json"
        );
    }
    let file = std::fs::read(std::path::Path::new(&golden).join("chat_cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&file).unwrap();
    assert!(cases.len() >= 7);
    for case in &cases {
        let (family, name) = (case["family"].as_str().unwrap(), &case["name"]);
        let options = options(&case["options"]);
        let text = built_in(family)
            .render(&case["messages"], &options)
            .unwrap();
        assert_eq!(text, case["text"], "{family} {name}");
        if let Some(mut model) = model.clone() {
            let family = ChatFamily::from_name(family).unwrap();
            model.set_chat_family(family).unwrap();
            let prompt = model.render(&case["messages"], &options).unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!((prompt.text, prompt.ids), (text, ids), "{name}");
        }
    }
}

/// The template that lies beside the real tokenizer.json is the published V3 one; it must
/// give what the built-in one gives, apart from its known faults with tools.
#[test]
fn the_template_beside_the_real_tokenizer_agrees_with_the_built_in_one() {
    let name = "the_template_beside_the_real_tokenizer_agrees_with_the_built_in_one";
    let folder = std::env::var("HADAL_TOKENIZER")
        .ok()
        .and_then(|path| Some(std::path::Path::new(&path).parent()?.to_owned()))
        .filter(|folder| folder.join("tokenizer_config.json").is_file());
    let Some(folder) = folder else {
        eprintln!(
            "{name} did not run: set HADAL_TOKENIZER to a tokenizer.json with its tokenizer_config.json beside it"
        );
        return;
    };
    let published = TextModel::open(&folder).unwrap();
    let mut ours = published.clone();
    ours.set_chat_family(ChatFamily::V3).unwrap();
    let all = tool_turns();
    let plain = json!([
        {"role": "system", "content": "a"}, {"role": "system", "content": "b"},
        {"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>y</think>z"},
        {"role": "user", "content": "w"}]);
    // Its arguments must be strings, so the round with an object is left out.
    let tools = json!([all[5], all[6], all[7], all[4], all[0]]);
    for messages in [plain, tools] {
        let options = RenderOptions::default();
        assert_eq!(
            published.render(&messages, &options).unwrap(),
            ours.render(&messages, &options).unwrap()
        );
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop_oneof!["user", "assistant", "tool", "system"].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof![
            "role",
            "content",
            "tool_calls",
            "function",
            "name",
            "arguments",
            "text",
            "\\PC{0,4}"
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn no_messages_make_a_template_panic(
        mut messages in any_json(),
        tools in proptest::option::of(any_json()),
        rest in any_json(),
        well_formed in any::<bool>(),
    ) {
        if well_formed && let Value::Object(mut message) = rest.clone() {
            message.insert("role".into(), "assistant".into());
            message.insert("content".into(), Value::Null);
            messages = json!([{"role": "user", "content": "x"}, message]);
        }
        let options = RenderOptions { tools, ..RenderOptions::default() };
        for family in ["v3", "r1", "v3.1"] {
            let _ = built_in(family).render(&messages, &options);
        }
    }

    #[test]
    fn no_template_makes_the_engine_panic(template in prop_oneof![
        "\\PC{0,60}",
        proptest::collection::vec(prop_oneof![
            "\\{%-? ?", " ?-?%\\}", "\\{\\{", "\\}\\}", "for m in messages", "endfor", "if", "endif",
            "messages", "\\[-?[0-9]{1,3}\\]", "\\|tojson", "\\|join", "set x =", "namespace\\(", "\\)", "\\(", "'", " ",
            "\\+", "~", "\\*", "-?[0-9]{1,20}", "macro f\\(x\\)", "endmacro", "f\\(", "\\.split\\('x', 3\\)",
            "\\|slice\\(2\\)", "strftime_now\\('%'\\)", "raise_exception\\('x'\\)"], 0..16)
            .prop_map(|parts| parts.concat()),
    ]) {
        let _ = render(&template, &hi());
    }

    #[test]
    fn no_bytes_make_a_configuration_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        value in any_json(),
        key in prop_oneof!["bos_token", "eos_token", "chat_template", "eos_token_id", "temperature"],
    ) {
        let near = json!({ key: value }).to_string();
        for bytes in [&bytes[..], near.as_bytes()] {
            let _ = hadal_tokens::TokenizerConfig::from_bytes(bytes);
            let _ = hadal_tokens::GenerationConfig::from_bytes(bytes);
            let _ = TextModel::from_bytes(tokenizer_json().to_string().as_bytes(), Some(bytes), None);
            let _ = hadal_tokens::Tokenizer::from_bytes(bytes);
        }
    }
}
