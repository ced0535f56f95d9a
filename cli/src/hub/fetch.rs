//! One file of a hub: kept under its commit, so it is fetched once; gone on with where a download broke off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Hub;
use crate::Failure;

/// So often a download that breaks off is gone on with.
const TRIES: usize = 5;

impl Hub {
    /// The file's path here, fetched if it is not.
    pub(super) fn file(&self, id: &str, sha: &str, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.folder.join("datasets").join(id.replace('/', "--")).join(sha);
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(|error| Failure::io(parent, &error))?;
        let part = folder.join(format!("{name}.part"));
        let url = format!("{}/datasets/{id}/resolve/{sha}/{}", self.endpoint, escaped(name));
        let mut tries = TRIES;
        loop {
            tries -= 1;
            match self.download(&url, id, &part)? {
                Ok(()) => break,
                Err(error) if tries == 0 => {
                    return Err(Failure::new("hub", format!("{url}: {error}"))
                        .hint("run it again: the download goes on where it broke off"));
                }
                Err(_) => {}
            }
        }
        fs::rename(&part, &path).map_err(|error| Failure::io(&path, &error))?;
        Ok(path)
    }

    /// Appends to `part` what is missing of it. The inner error is the network's, and worth another try.
    fn download(&self, url: &str, id: &str, part: &Path) -> Result<io::Result<()>, Failure> {
        let local = |error: io::Error| Failure::io(part, &error);
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(local)?;
        let mut from = file.metadata().map_err(local)?.len();
        let response = self.get(url, id, from)?;
        if from > 0 && response.status().as_u16() != 206 {
            // The server sends it from its beginning.
            file.set_len(0).map_err(local)?;
            from = 0;
        }
        let length = response.headers().get("content-length");
        let length = length.and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let copied = match copy(&mut body, &mut file) {
            Ok(copied) => copied,
            Err(Broken::Network(error)) => return Ok(Err(error)),
            Err(Broken::Disk(error)) => return Err(local(error)),
        };
        if let Some(length) = length.filter(|length| *length != copied) {
            let (found, expected) = (from + copied, from + length);
            let why = format!("broke off after {found} of {expected} bytes");
            return Ok(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        file.sync_all().map_err(local)?;
        Ok(Ok(()))
    }
}

enum Broken {
    Network(io::Error),
    Disk(io::Error),
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<u64, Broken> {
    let mut buffer = vec![0; 1 << 18];
    let mut copied = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Network(error)),
        };
        io::Write::write_all(to, &buffer[..count]).map_err(Broken::Disk)?;
        copied += count as u64;
    }
}

/// A name as part of an address.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A server that speaks the hub's routes, and what it was asked.
    struct Server {
        address: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    /// Answers `path` (with its `range` and `authorization`, if any): status, headers, body.
    type Answer = fn(&str, &str, &str) -> (u16, String, Vec<u8>);

    impl Server {
        fn start(answer: Answer) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let noted = Arc::clone(&asked);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    serve(stream.unwrap(), answer, &noted);
                }
            });
            Self { address, asked }
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    fn serve(mut stream: TcpStream, answer: Answer, noted: &Mutex<Vec<String>>) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let Some(first) = lines.first() else { return };
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let header = |name: &str| {
            let found = lines.iter().filter_map(|line| line.split_once(": "));
            let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v);
            found.next_back().unwrap_or_default().to_owned()
        };
        let (range, token) = (header("range"), header("authorization"));
        noted.lock().unwrap().push(format!("{path} {range}").trim_end().to_owned());
        let (status, headers, body) = answer(&path, &range, &token);
        let length = if headers.contains("content-length") {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n{length}{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
    }

    fn listing() -> Vec<u8> {
        serde_json::json!({"sha": SHA, "siblings": [{"rfilename": "README.md"}, {"rfilename": "data/train 1.jsonl"}]})
            .to_string()
            .into_bytes()
    }

    fn hub(server: &Server, token: Option<&str>) -> (tempfile::TempDir, Hub) {
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new(&server.address, token.map(str::to_owned), folder.path().into());
        (folder, hub)
    }

    #[test]
    fn a_data_set_is_fetched_once() {
        let server = Server::start(|path, _, _| match path {
            "/api/datasets/org/set/revision/main" => (200, String::new(), listing()),
            // As the hub does, the file itself is elsewhere.
            "/datasets/org/set/resolve/0123456789abcdef0123456789abcdef01234567/data/train%201.jsonl" => {
                (302, "location: /cdn/blob\r\n".into(), Vec::new())
            }
            "/cdn/blob" => (200, String::new(), b"{\"text\": \"a\"}\n".to_vec()),
            _ => (404, String::new(), Vec::new()),
        });
        let (_folder, hub) = hub(&server, None);
        for asked in [3, 4] {
            let files = hub.data_set("org/set", None, "train").unwrap();
            assert_eq!(fs::read_to_string(&files[0]).unwrap(), "{\"text\": \"a\"}\n");
            assert!(files[0].ends_with(format!("datasets/org--set/{SHA}/data/train 1.jsonl")));
            assert_eq!(server.asked().len(), asked, "{:?}", server.asked());
        }
        let Failure::Error(report) = hub.data_set("org/set", None, "test").unwrap_err() else {
            panic!()
        };
        assert!(report.message.contains("no JSON, CSV or Parquet file for the split `test`"));
    }

    #[test]
    fn a_download_that_breaks_off_goes_on_where_it_was() {
        let server = Server::start(|path, range, _| match (path, range) {
            ("/api/datasets/org/set/revision/main", _) => (200, String::new(), listing()),
            (_, "") => (200, "content-length: 10\r\n".into(), b"0123".to_vec()),
            (_, "bytes=4-") => (206, "content-length: 6\r\n".into(), b"4567".to_vec()),
            (_, "bytes=8-") => (206, String::new(), b"89".to_vec()),
            _ => (500, String::new(), Vec::new()),
        });
        let (_folder, hub) = hub(&server, None);
        let files = hub.data_set("org/set", None, "train").unwrap();
        assert_eq!(fs::read_to_string(&files[0]).unwrap(), "0123456789");
    }

    #[test]
    fn what_the_hub_refuses_is_told() {
        let server = Server::start(|path, _, token| match (path, token) {
            ("/api/datasets/org/mine/revision/main", "Bearer secret") => {
                (200, String::new(), listing())
            }
            ("/api/datasets/org/mine/revision/main", _) => (401, String::new(), Vec::new()),
            ("/api/datasets/org/page/revision/main", _) => (200, String::new(), b"<html>".to_vec()),
            ("/api/datasets/org/down/revision/main", _) => (503, String::new(), Vec::new()),
            (path, _) if path.contains("/resolve/") => (200, String::new(), b"{}".to_vec()),
            _ => (404, String::new(), Vec::new()),
        });
        let refused = |token, id| {
            let (_folder, hub) = hub(&server, token);
            let Failure::Error(report) = hub.data_set(id, None, "train").unwrap_err() else {
                panic!()
            };
            format!("{} ({})", report.message, report.hint.unwrap_or_default())
        };
        assert!(refused(None, "org/mine").contains("org/mine: the hub answers 401 (there is no such data set, or it is not public: set HF_TOKEN)"));
        assert!(refused(Some("wrong"), "org/mine").contains("HF_TOKEN does not open it"));
        assert!(
            refused(None, "org/none")
                .contains("org/none: neither a path here nor a data set on http://127")
        );
        assert!(refused(None, "org/page").contains("no JSON"));
        assert!(refused(None, "org/down").contains("the hub answers 503"));
        let (_folder, open) = hub(&server, Some("secret"));
        assert_eq!(open.data_set("org/mine", None, "train").unwrap().len(), 1);
        let (_folder, nowhere) =
            hub(&Server { address: "http://127.0.0.1:9".into(), asked: Arc::default() }, None);
        let Failure::Error(report) = nowhere.data_set("org/set", None, "train").unwrap_err() else {
            panic!()
        };
        assert!(report.hint.unwrap().contains("is there a network?"));
    }
}
