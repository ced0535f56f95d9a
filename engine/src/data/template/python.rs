//! JSON as Python's `json.dumps(…, ensure_ascii=False)` writes it, which is what transformers' `tojson` filter does:
//! a space after commas and colons, nothing escaped for HTML.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};

/// The `tojson` filter.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    // Accepted because templates pass it; the value transformers itself uses.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let style = Style { indent: indent.map(|n| n.min(64)), sort_keys: sort_keys.unwrap_or(false) };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
}

struct Style {
    indent: Option<usize>,
    sort_keys: bool,
}

impl Style {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| (None, item));
                self.list(['[', ']'], items, depth, out);
            }
            serde_json::Value::Object(object) => {
                let mut items: Vec<_> = object.iter().map(|(k, v)| (Some(k.as_str()), v)).collect();
                if self.sort_keys {
                    items.sort_by_key(|(key, _)| *key);
                }
                self.list(['{', '}'], items.into_iter(), depth, out);
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn list<'v>(
        &self,
        [open, close]: [char; 2],
        items: impl ExactSizeIterator<Item = (Option<&'v str>, &'v serde_json::Value)>,
        depth: usize,
        out: &mut String,
    ) {
        let empty = items.len() == 0;
        out.push(open);
        for (i, (key, value)) in items.enumerate() {
            match self.indent {
                Some(_) if i > 0 => out.push(','),
                None if i > 0 => out.push_str(", "),
                _ => {}
            }
            self.new_line(depth + 1, out);
            if let Some(key) = key {
                out.push_str(&serde_json::Value::from(key).to_string());
                out.push_str(": ");
            }
            self.write(value, depth + 1, out);
        }
        if !empty {
            self.new_line(depth, out);
        }
        out.push(close);
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}
