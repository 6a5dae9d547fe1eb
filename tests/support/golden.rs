//! Golden files: JSON that was looked at field by field once, and must stay so. `KEYLOOM_BLESS=1` writes them again; read the
//! difference before committing it.

use std::{fs, path::Path};

use serde_json::Value;

/// Differences that are shown.
const SHOWN: usize = 40;

/// Panics unless `found` is what the file holds, with every field that differs; writes the file when told to bless.
pub fn check(file: &Path, found: &Value) {
    if std::env::var("KEYLOOM_BLESS").is_ok_and(|bless| bless == "1") {
        let text = serde_json::to_string_pretty(found).expect("JSON") + "\n";
        fs::create_dir_all(file.parent().expect("a file is in a folder")).expect("the folder of golden files");
        return fs::write(file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    let text =
        fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}; KEYLOOM_BLESS=1 writes it", file.display()));
    let golden = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let differences = differences(&golden, found);
    let shown = differences.iter().take(SHOWN).map(|d| format!("  {d}\n")).collect::<String>();
    let count = differences.len();
    assert!(count == 0, "{count} differences from {}; KEYLOOM_BLESS=1 accepts them\n{shown}", file.display());
}

/// Each field that is not the same, in words.
pub fn differences(golden: &Value, found: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    compare("", golden, found, &mut differences);
    differences
}

fn compare(path: &str, golden: &Value, found: &Value, differences: &mut Vec<String>) {
    let place = if path.is_empty() { "everything" } else { path };
    match (golden, found) {
        (Value::Object(golden), Value::Object(found)) => {
            for (name, value) in golden {
                match found.get(name) {
                    Some(other) => compare(&format!("{path}.{name}"), value, other, differences),
                    None => differences.push(format!("{path}.{name}: is missing, golden is {value}")),
                }
            }
            for (name, value) in found.iter().filter(|(name, _)| !golden.contains_key(*name)) {
                differences.push(format!("{path}.{name}: is {value}, golden has no such field"));
            }
        }
        (Value::Array(golden), Value::Array(found)) => {
            if golden.len() != found.len() {
                differences.push(format!("{place}: has {} elements, golden has {}", found.len(), golden.len()));
            }
            for (index, (golden, found)) in golden.iter().zip(found).enumerate() {
                compare(&format!("{path}[{index}]"), golden, found, differences);
            }
        }
        // 2 and 2.0 are different on purpose: a client's number keeps its type.
        _ if golden != found => differences.push(format!("{place}: is {found}, golden is {golden}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_difference_has_its_place() {
        let golden = json!([{"event": "a", "gone": 1, "inner": {"list": [1, {"x": null}]}}]);
        let found = json!([{"event": "b", "new": true, "inner": {"list": [1.0, {"x": "null"}, 3]}}, {}]);
        let wanted = [
            "everything: has 2 elements, golden has 1",
            "[0].event: is \"b\", golden is \"a\"",
            "[0].gone: is missing, golden is 1",
            "[0].inner.list: has 3 elements, golden has 2",
            "[0].inner.list[0]: is 1.0, golden is 1",
            "[0].inner.list[1].x: is \"null\", golden is null",
            "[0].new: is true, golden has no such field",
        ];
        assert_eq!(differences(&golden, &found), wanted);
        assert!(differences(&golden, &golden).is_empty());
    }
}
