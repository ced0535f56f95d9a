//! Kinds of files: packed ones, CSV, Parquet; and what is wrong with them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bench::Bench;

const ROWS: &str = "{\"prompt\": \"The capital of France is\", \"completion\": \" Paris.\"}\n";
const LEARNED: &str = "The capital of France is[ Paris.<|im_end|>]";

fn gz(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(bytes.as_ref(), 3).unwrap()
}

fn parquet() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/files/chats.parquet")
}

#[test]
fn packed_files_are_read_whatever_their_name() {
    let bench = Bench::new();
    let twice = [gz(ROWS), gz(ROWS)].concat();
    for (name, bytes, rows) in [
        ("rows.jsonl.gz", gz(ROWS), 1),
        ("rows.jsonl.zst", zst(ROWS), 1),
        ("rows", gz(format!("[{ROWS}, {ROWS}]")), 2),
        ("members.gz", twice, 2),
        ("rows.csv.gz", gz("prompt,completion\nThe capital of France is, Paris.\n"), 1),
        ("rows.tsv.zst", zst("prompt\tcompletion\r\nThe capital of France is\t Paris.\r\n"), 1),
    ] {
        let shown = bench.preview_file(bench.file(name, bytes), "");
        assert_eq!(shown, vec![LEARNED; rows], "{name}");
    }
}

#[test]
fn csv_cells_are_text_or_lists() {
    let bench = Bench::new();
    let show = |text: &str| bench.preview_file(bench.file("rows.csv", text), "");
    let quoted = "\u{FEFF}id,prompt,completion\r\n1,\"a, \"\"b\"\"\nc\",\" d\"\r\n\r\n2,e, f\r\n";
    assert_eq!(show(quoted), ["a, \"b\"\nc[ d<|im_end|>]", "e[ f<|im_end|>]"]);
    let lists = "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"1+1?\"\"}, \
        {\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"2\"\"}]\"\n";
    assert!(show(lists)[0].ends_with("<|im_start|>assistant\n[2<|im_end|>\n]"));
}

#[test]
fn csv_that_cannot_be_right_is_refused_by_line() {
    let bench = Bench::new();
    let refused = |bytes: &[u8]| bench.refusal_of("rows.csv", bytes);
    for (bytes, expected) in [
        (&b"prompt,completion\na,b\na,b,c\n"[..], ": line 3: 3 cells, expected 2 as in line 1"),
        (b"prompt,prompt\na,b\n", ": line 1 names columns, and `prompt` twice"),
        (b"prompt,\na,b\n", ": line 1 names columns, and one without a name"),
        (b"prompt,completion\na,\xC3\x28\n", ": line 2: cell 2 is not UTF-8"),
        (b"prompt,completion\na,\0\n", ": line 2: column `completion`: a NUL byte"),
        (b"messages\n[oops\n", ": line 2: column `messages`: expected value"),
        (b"a;b\n1;2\n", ": line 2: columns are `a;b`, expected `messages`"),
        (b"prompt,completion\n", ": no row is left to train on (0 read"),
    ] {
        let found = refused(bytes);
        assert!(found.starts_with(expected), "{}: {found}", bytes.escape_ascii());
    }
    let open = format!("prompt,completion\na,\"{}", "b,\n".repeat(30 << 20));
    assert!(
        refused(open.as_bytes()).starts_with(": line 2: longer than 16 MiB; is a quotation mark")
    );
}

#[test]
fn parquet_is_read_as_datasets_writes_it() {
    let bench = Bench::new();
    let shown = bench.preview_file(parquet(), "");
    assert_eq!(shown.len(), 5);
    for (n, row) in shown.iter().enumerate() {
        let turns = format!(
            "<|im_start|>user\n{n}+{n}?<|im_end|>\n<|im_start|>assistant\n[{}<|im_end|>\n]",
            2 * n
        );
        assert!(row.ends_with(&turns), "{row}");
    }
    let first = bench.load_files(&[parquet()], "max_samples: 4").unwrap();
    assert_eq!(first.stats.rows, 4, "over the edge of a row group");
}

#[test]
fn no_damage_to_a_parquet_file_brings_the_reader_down() {
    let bench = Bench::new();
    let sound = std::fs::read(parquet()).unwrap();
    let begun = Instant::now();
    for at in (0..sound.len()).step_by(5) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        // A flipped letter of a text is no damage that a reader could see.
        let _ = bench.load_files(&[bench.file("rows.parquet", &bytes)], "");
    }
    for end in (4..sound.len()).step_by(97) {
        let found = bench.refusal_of("rows.parquet", &sound[..end]);
        assert!(found.starts_with(": no sound Parquet file: "), "{found}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(bench.refusal_of("rows.gz", gz(&sound)).starts_with(": a packed Parquet file"));
}

/// Small files that would fill a disk or a day: each is refused before it has cost more than a moment.
#[test]
fn bombs_do_not_go_off() {
    let bench = Bench::new();
    for (what, bytes, expected) in [
        ("one line, gzip", gz(vec![b'a'; 300 << 20]), ": line 1 begins with no"),
        (
            "one row, zstd",
            zst([b"{\"prompt\": \"".as_slice(), &vec![b'a'; 300 << 20]].concat()),
            ": line 1: longer than 16 MiB",
        ),
        (
            "blanks, zstd",
            zst(vec![b'\n'; 300 << 20]),
            ": it unpacks to more than 200 times its size",
        ),
        ("bomb in a bomb", zst(zst(vec![b'\n'; 64 << 20])), ": the file is packed twice"),
    ] {
        let begun = Instant::now();
        let path = bench.file("rows.jsonl", &bytes);
        let error = bench.load_files(&[path], "").unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
    }
}

#[test]
fn damaged_packing_is_told() {
    let bench = Bench::new();
    let packed = gz(ROWS.repeat(100));
    let mut flipped = packed.clone();
    // In the checksum: what stands before it is read before it is known to be wrong.
    let at = flipped.len() - 6;
    flipped[at] ^= 0x55;
    for (name, bytes, expected) in [
        (
            "gzip, cut",
            packed[..packed.len() - 9].to_vec(),
            "the packed data is cut off; is the file complete?",
        ),
        ("gzip, flipped", flipped, "the packed data is damaged"),
        ("zstd, cut", zst(ROWS.repeat(100))[..20].to_vec(), "the packed data is cut off"),
        ("twice", gz(gz(ROWS)), "the file is packed twice; unpack it once"),
        ("nothing", gz(""), "the file unpacks to nothing"),
        ("xz", b"\xFD7zXZ\0\0".to_vec(), "the file is packed in a way that is not read"),
    ] {
        let found = bench.refusal_of("rows.jsonl", bytes);
        assert!(found.contains(expected), "{name}: {found}");
    }
}
