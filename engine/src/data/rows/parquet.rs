//! Parquet, read record by record.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::{FileRow, Next};
use crate::{EngineError, Result};

/// As for packed files: what unpacks to more than this many times its size is a bomb.
const RATIO_MAX: i64 = 1000;
const HARMLESS_BYTES: i64 = 64 << 20;

pub(super) fn rows(
    path: &Path,
    file: File,
    take: &mut impl FnMut(FileRow) -> Result<Next>,
) -> Result<Next> {
    let refuse = |why: String| EngineError::input(format!("{}: {why}", path.display()));
    let damaged = |e: ParquetError| refuse(format!("no sound Parquet file: {e}"));
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(damaged)?;
    for group in reader.metadata().row_groups() {
        for column in group.columns() {
            let (packed, unpacked) = (column.compressed_size(), column.uncompressed_size());
            if unpacked > HARMLESS_BYTES.max(packed.saturating_mul(RATIO_MAX)) {
                return Err(refuse(format!(
                    "column `{}` unpacks to more than {RATIO_MAX} times its size",
                    column.column_path()
                )));
            }
        }
    }
    let mut rows = guarded(|| reader.get_row_iter(None)).map_err(damaged)?;
    for number in 1.. {
        let place = format!("{}: row {number}", path.display());
        let row = match guarded(|| rows.next().transpose()) {
            Ok(None) => break,
            Ok(Some(row)) => row,
            Err(e) => return Err(EngineError::input(format!("{place}: {e}"))),
        };
        if take(FileRow { place, columns: object(&row) })? == Next::Enough {
            return Ok(Next::Enough);
        }
    }
    Ok(Next::Row)
}

/// The crate trusts a file's numbers here and there; what they make it do ends here.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".into())))
}

/// The fields that are there: a schema has every key that any row has, and nulls where a row has not.
fn object(row: &Row) -> Map<String, Value> {
    let fields = row.get_column_iter().map(|(name, field)| (name.clone(), value(field)));
    fields.filter(|(_, value)| !value.is_null()).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(x) => f64::from(x.to_f32()).into(),
        Field::Float(x) => f64::from(*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(text) => text.as_str().into(),
        // Old writers leave out that their bytes are text.
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::Group(row) => object(row).into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| {
                let key = value(key);
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                (name, value(field))
            };
            map.entries().iter().map(entry).collect::<Map<_, _>>().into()
        }
        other => other.to_string().into(),
    }
}
