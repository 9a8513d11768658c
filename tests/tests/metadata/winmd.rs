//! Microsoft's metadata of the Windows API and the driver kit, as windows-bindgen ships it.

use std::path::{Path, PathBuf};
use std::process::Command;

use windows_metadata::reader::{File, HasAttributes, TypeCategory, TypeDef, TypeIndex};
use windows_metadata::{Type, TypeAttributes, Value};

use crate::model::{Declarations, Record, Signature};

/// `Architecture.X64` of `SupportedArchitectureAttribute`.
const X64: i32 = 2;
const POINTER: (u64, u64) = (8, 8);

/// Where Cargo has put the package `windows-bindgen`.
fn package() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == "windows-bindgen")
        .expect("windows-bindgen is a dependency");
    let manifest = package["manifest_path"].as_str().expect("a path");
    Path::new(manifest).parent().expect("a folder").to_owned()
}

/// Reads both files.
pub(crate) fn read() -> Declarations {
    let folder = package().join("default");
    let files = ["Windows.Win32.winmd", "Windows.Wdk.winmd"]
        .map(|name| File::read(folder.join(name)).expect("the package holds the metadata"));
    let index = TypeIndex::new(files.into());
    let metadata = Metadata(&index);
    let mut declarations = Declarations::default();
    for ty in index.types().filter(is_for_x64) {
        metadata.add(&mut declarations, ty);
    }
    declarations
}

fn is_for_x64<'a>(item: &impl HasAttributes<'a>) -> bool {
    item.find_attribute("SupportedArchitectureAttribute")
        .is_none_or(|attribute| {
            attribute.value().iter().any(|(_, value)| {
                matches!(value, Value::I32(set) | Value::AttributeEnum(_, set) if set & X64 != 0)
            })
        })
}

fn add_constants(to: &mut Declarations, ty: TypeDef<'_>) {
    for field in ty.fields() {
        if let Some(constant) = field.constant() {
            if let Some(number) = number(&constant.value()) {
                to.constants.insert(field.name().to_owned(), number);
            }
        } else if let Some(attribute) = field.find_attribute("GuidAttribute") {
            to.guids
                .insert(field.name().to_owned(), guid(&attribute.value()));
        }
    }
}

struct Metadata<'a>(&'a TypeIndex);

impl<'a> Metadata<'a> {
    fn add(&self, to: &mut Declarations, ty: TypeDef<'a>) {
        match ty.category() {
            TypeCategory::Struct => {
                if let Some((record, _)) = self.record(ty) {
                    to.records.insert(ty.name().to_owned(), record);
                }
            }
            TypeCategory::Enum => add_constants(to, ty),
            TypeCategory::Class => {
                add_constants(to, ty);
                for method in ty.methods().filter(is_for_x64) {
                    let signature = method.signature(&[]);
                    let size = |ty: &Type| self.size(ty, None).map(|(size, _)| size);
                    let parameters: Option<Vec<u64>> = signature.types.iter().map(size).collect();
                    if let (Some(parameters), Some(returns)) =
                        (parameters, size(&signature.return_type))
                    {
                        to.functions.insert(
                            method.name().to_owned(),
                            Signature {
                                parameters,
                                returns,
                            },
                        );
                    }
                }
            }
            _ => {}
        }
    }

    /// A structure's members and alignment; `None` when a member is of a type that is not there.
    fn record(&self, ty: TypeDef<'a>) -> Option<(Record, u64)> {
        let union = ty.flags().contains(TypeAttributes::ExplicitLayout);
        let packing = ty
            .class_layout()
            .map(|layout| u64::from(layout.packing_size()))
            .filter(|packing| *packing > 0)
            .unwrap_or(u64::MAX);
        let mut record = Record::default();
        let (mut end, mut alignment) = (0u64, 1);
        for field in ty.fields() {
            if field.constant().is_some() {
                continue;
            }
            let (size, align) = self.size(&field.ty(), Some(ty))?;
            let align = align.min(packing);
            let offset = if union {
                0
            } else {
                end.next_multiple_of(align)
            };
            end = end.max(offset + size);
            alignment = alignment.max(align);
            match self.unnamed(&field.ty(), ty) {
                Some(inner) => {
                    let (inner, _) = self.record(inner)?;
                    let anonymous = field.name().starts_with("Anonymous");
                    for (name, at) in inner.fields {
                        let name = if anonymous {
                            name
                        } else {
                            format!("{}.{name}", field.name())
                        };
                        record.fields.insert(name, offset + at);
                    }
                    if !anonymous {
                        record.fields.insert(field.name().to_owned(), offset);
                    }
                }
                None if field.name().starts_with("_bitfield") => {}
                None => {
                    record.fields.insert(field.name().to_owned(), offset);
                }
            }
        }
        record.size = end.next_multiple_of(alignment);
        Some((record, alignment))
    }

    /// The type of a member that has none of its own name.
    fn unnamed(&self, ty: &Type, owner: TypeDef<'a>) -> Option<TypeDef<'a>> {
        let Type::Name(name) = ty else { return None };
        self.0
            .nested(owner)
            .find(|nested| nested.name() == name.name)
    }

    fn size(&self, ty: &Type, owner: Option<TypeDef<'a>>) -> Option<(u64, u64)> {
        Some(match ty {
            Type::Void => (0, 1),
            Type::Bool | Type::I8 | Type::U8 => (1, 1),
            Type::Char | Type::I16 | Type::U16 => (2, 2),
            Type::I32 | Type::U32 | Type::F32 => (4, 4),
            Type::I64 | Type::U64 | Type::F64 => (8, 8),
            Type::ArrayFixed(element, count) => {
                let (size, align) = self.size(element, owner)?;
                (size * *count as u64, align)
            }
            Type::Name(name) if name.namespace == "System" && name.name == "Guid" => (16, 4),
            Type::Name(name) => {
                let nested = owner.and_then(|owner| self.unnamed(ty, owner));
                let mut known = self.0.get(&name.namespace, &name.name);
                let found = nested.or_else(|| known.find(is_for_x64))?;
                self.size_of_definition(found)?
            }
            _ => POINTER,
        })
    }

    fn size_of_definition(&self, ty: TypeDef<'a>) -> Option<(u64, u64)> {
        match ty.category() {
            TypeCategory::Struct => self
                .record(ty)
                .map(|(record, alignment)| (record.size, alignment)),
            TypeCategory::Enum => {
                let value = ty.fields().find(|field| field.constant().is_none())?;
                self.size(&value.ty(), Some(ty))
            }
            _ => Some(POINTER),
        }
    }
}

fn number(value: &Value) -> Option<u64> {
    Some(match *value {
        Value::U8(value) => value.into(),
        Value::U16(value) => value.into(),
        Value::U32(value) => value.into(),
        Value::U64(value) => value,
        Value::I8(value) => i64::from(value).cast_unsigned(),
        Value::I16(value) => i64::from(value).cast_unsigned(),
        Value::I32(value) => i64::from(value).cast_unsigned(),
        Value::I64(value) => value.cast_unsigned(),
        _ => return None,
    })
}

fn guid(parts: &[(String, Value)]) -> u128 {
    parts.iter().fold(0, |guid, (_, part)| match part {
        Value::U32(part) => u128::from(*part),
        Value::U16(part) => guid << 16 | u128::from(*part),
        Value::U8(part) => guid << 8 | u128::from(*part),
        _ => guid,
    })
}
