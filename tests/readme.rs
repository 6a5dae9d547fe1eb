//! The README, followed as a new user would: its walk-through is the files that it names, and its commands give the answers
//! that it shows. Each example's own tests run with all others; they are in its file.
//!
//! The walk-through could be taken out of the README and compiled in a project of its own. But for another workspace cargo
//! compiles the crates of this one again, and each dependency whose features come out otherwise: minutes of every test run,
//! and a lockfile that nobody has looked at. That the files are the same to the byte proves as much, and rustfmt and clippy
//! see them too.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use keyloom_tests::support::{
    engine::{READY_MAX, binary, folder},
    http,
    process::Process,
    servers::free_port,
    wait_for, workspace,
};

/// How long an answer may take to become what the README shows.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Where the README's engines listen; here they get a free port.
const USUAL: &str = "127.0.0.1:8080";

/// Text between fences.
struct Block {
    language: String,
    /// The file that the text before it named last.
    file: Option<String>,
    text: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The blocks under a heading, up to the next heading of any level.
fn blocks(heading: &str) -> Vec<Block> {
    let readme = read("README.md");
    let mut lines = readme.lines().skip_while(|line| *line != heading).skip(1);
    let (mut blocks, mut file) = (Vec::new(), None);
    while let Some(line) = lines.next().filter(|line| !line.starts_with('#')) {
        if let Some(language) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
            blocks.push(Block { language: language.to_owned(), file: file.clone(), text });
        }
        let named = line.split('`').skip(1).step_by(2).filter(|code| is_file(code)).last();
        file = named.map(str::to_owned).or(file);
    }
    assert!(!blocks.is_empty(), "the README has no blocks under {heading:?}");
    blocks
}

fn is_file(code: &str) -> bool {
    ["examples/", "config/"].iter().any(|folder| code.starts_with(folder)) && Path::new(code).extension().is_some()
}

#[test]
fn the_walk_through_is_the_files_that_it_names() {
    let mut files = BTreeMap::<String, String>::new();
    for block in blocks("## Writing a handler").into_iter().filter(|block| block.language != "sh") {
        let file = block.file.expect("a block of the walk-through follows the name of its file");
        let text = files.entry(file).or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&block.text);
    }
    let named: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(named, ["config/loyalty.toml", "examples/Cargo.toml", "examples/loyalty.rs"]);
    assert!(files["examples/loyalty.rs"].contains("#[test]"), "a handler has tests");
    for (file, text) in files {
        let real = read(&file);
        if file.ends_with("Cargo.toml") {
            assert!(real.contains(&text), "{file} lacks these lines of README.md:\n{text}");
            continue;
        }
        let differs = text.lines().zip(real.lines()).position(|(readme, real)| readme != real);
        let differs = differs.unwrap_or_else(|| text.lines().count().min(real.lines().count()));
        assert!(text == real, "README.md and {file} differ from line {} of the file on", differs + 1);
    }
}

/// The other sections quote: a line of `// ...` stands for what is left out.
#[test]
fn what_is_quoted_from_examples_is_there() {
    for heading in ["### Rows of your own", "### Timers", "### Look-ups", "### Testing a handler"] {
        let quotes: Vec<_> = blocks(heading).into_iter().filter(|block| block.language == "rust").collect();
        assert!(!quotes.is_empty(), "{heading} quotes nothing");
        for quote in quotes {
            let file = quote.file.unwrap_or_else(|| panic!("{heading}: a quote follows the name of its file"));
            let real = read(&file);
            let mut rest = real.as_str();
            for part in quote.text.split("// ...").map(|part| part.trim_matches([' ', '\n'])) {
                let at = rest.find(part);
                let at = at.unwrap_or_else(|| panic!("{heading}: {file} has not, or not in this order:\n{part}"));
                rest = &rest[at + part.len()..];
            }
        }
    }
}

#[test]
fn the_walk_through_runs() {
    follow("## Writing a handler", None);
}

#[test]
fn cart_recommendations_run() {
    follow("### Example: cart recommendations", None);
}

#[test]
fn card_velocity_runs() {
    follow("### Example: card velocity", None);
}

#[test]
fn the_demo_answers_as_shown() {
    follow("## What the demo shows", Some(("keyloom", "config/quickstart.toml")));
}

#[test]
fn features_are_read_as_shown() {
    follow("## Reading features", Some(("keyloom", "config/quickstart.toml")));
}

/// Does what the section's commands say, in their order, and compares the answers with the comments behind them.
fn follow(heading: &str, engine: Option<(&str, &str)>) {
    let folder = folder();
    let mut engine = engine.map(|(program, topology)| start(program, topology, folder.path()));
    let (mut sent, mut compared) = (0, 0);
    for block in blocks(heading).iter().filter(|block| block.language == "sh") {
        for command in commands(&block.text) {
            let words: Vec<_> = command.words.iter().map(String::as_str).collect();
            match words[..] {
                ["cargo", "test", "--release", "-p", "keyloom-examples", "--example", example] => {
                    let lines = format!("name = \"{example}\"\npath = \"{example}.rs\"\ntest = true\n");
                    assert!(read("examples/Cargo.toml").contains(&lines), "nothing runs the tests of {example}");
                }
                [
                    "cargo",
                    "run",
                    "--release",
                    "-p",
                    "keyloom-examples",
                    "--example",
                    example,
                    "--",
                    "run",
                    topology,
                ] => {
                    engine = Some(start(example, topology, folder.path()));
                }
                ["curl", "-sS", url] => {
                    let (process, port) = engine.as_ref().expect("an engine runs");
                    let wanted = command.answer.expect("what is read is shown");
                    wait_for(&wanted, ANSWER_MAX, || {
                        let answer = http::get(*port, path(url)).map_err(|e| e.to_string())?;
                        if fits(&wanted, &answer.body) { Ok(()) } else { Err(answer.body + &process.output()) }
                    });
                    compared += 1;
                }
                ["curl", "-sS", url, "-d", body] => {
                    let (_, port) = engine.as_ref().expect("an engine runs");
                    sent += post(*port, url, body, command.answer.as_deref());
                }
                ["printf", "%s\\n", ref lines @ .., "|", "curl", "-sS", url, "--data-binary", "@-"] => {
                    let (_, port) = engine.as_ref().expect("an engine runs");
                    sent += post(*port, url, &lines.join("\n"), command.answer.as_deref());
                }
                _ => panic!("{heading}: this test does not know how to do {words:?}"),
            }
        }
    }
    assert!(sent > 0 && compared > 0, "{heading}: {sent} requests sent, {compared} answers compared");
    let (mut process, _) = engine.expect("an engine runs");
    process.signal("TERM");
    assert_eq!(process.wait(READY_MAX), 0, "{}", process.output());
}

fn post(port: u16, url: &str, body: &str, wanted: Option<&str>) -> usize {
    let answer = http::post(port, path(url), "application/x-www-form-urlencoded", body.as_bytes()); // as curl does
    let answer = answer.unwrap_or_else(|e| panic!("{url}: {e}"));
    let wanted = wanted.expect("the answer is shown");
    assert!(fits(wanted, &answer.body), "the README shows\n{wanted}\nand the answer is\n{}", answer.body);
    1
}

fn path(url: &str) -> &str {
    let path = url.strip_prefix("http://").and_then(|rest| rest.strip_prefix(USUAL));
    path.unwrap_or_else(|| panic!("{url} is not of the engine"))
}

/// Runs a topology of the repository in `folder`, on a free port.
fn start(program: &str, topology: &str, folder: &Path) -> (Process, u16) {
    let port = free_port();
    let mut text = read(topology);
    if !text.contains(USUAL) {
        text.push_str(&format!("\n[http]\nlisten = \"{USUAL}\"\n")); // the default
    }
    fs::write(folder.join("topology.toml"), text.replace(USUAL, &format!("127.0.0.1:{port}"))).expect("writable");
    let mut command = Command::new(binary(program));
    command.args(["run", "topology.toml"]).current_dir(folder);
    let mut process = Process::start(program, folder, &mut command);
    wait_for("the engine to be ready", READY_MAX, || {
        assert!(process.ended().is_none(), "{}", process.output());
        let answer = http::get(port, "/readyz").map_err(|e| e.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    });
    (process, port)
}

#[derive(Default)]
struct Shown {
    words: Vec<String>,
    answer: Option<String>,
}

/// The commands of a block, each with the answer in the comment lines behind it.
fn commands(block: &str) -> Vec<Shown> {
    let (mut commands, mut open) = (Vec::<Shown>::new(), String::new());
    for line in block.lines() {
        if let Some(comment) = line.strip_prefix('#').filter(|_| open.is_empty()) {
            let answer = &mut commands.last_mut().expect("an answer follows a command").answer;
            answer.get_or_insert_default().push_str(comment.trim());
            continue;
        }
        open.push_str(line);
        // A text or a pipe goes on in the next line.
        if !open.is_empty() && open.matches('\'').count() % 2 == 0 && !open.ends_with('|') {
            commands.push(Shown { words: words(&std::mem::take(&mut open)), answer: None });
        } else if !open.is_empty() {
            open.push('\n');
        }
    }
    assert!(open.is_empty(), "the block ends within a command: {open}");
    commands
}

/// The words of a command as a shell has them; of quotes, it knows the single ones.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in command.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Whether `answer` is what the README shows, where `...` stands for anything.
fn fits(shown: &str, answer: &str) -> bool {
    let parts: Vec<_> = shown.split("...").map(str::trim).collect();
    let [first, middle @ .., last] = &parts[..] else { return shown == answer.trim() };
    let Some(mut rest) = answer.trim().strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    middle.iter().all(|part| {
        let at = rest.find(part);
        rest = at.map_or(rest, |at| &rest[at + part.len()..]);
        at.is_some()
    })
}

#[test]
fn comparing_can_fail() {
    let answer = r#"{"key":"ada","seq":7,"features":{"orders":1},"as_of":"now"}"#;
    for (shown, is) in [
        (answer, true),
        (r#"{"key":"ada", ... "features":{"orders":1}, ...}"#, true),
        (r#"{"key":"ada", ... "features":{"orders":2}, ...}"#, false),
        (r#"{"key":"bob", ... "features":{"orders":1}, ...}"#, false),
        (r#"{... "orders":1 ... "seq":7 ...}"#, false),
        (r#"{"key":"ada"}"#, false),
    ] {
        assert_eq!(fits(shown, answer), is, "{shown}");
    }
    let shown = commands("a 'b\nc' |\n d\n# one,\n#  two\ne\n");
    assert_eq!(shown[0].words, ["a", "b\nc", "|", "d"]);
    assert_eq!((shown[0].answer.as_deref(), &shown[1].words[..]), (Some("one,two"), &["e".to_owned()][..]));
}
