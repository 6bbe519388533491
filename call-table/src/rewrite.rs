//! The module with other calls.
//!
//! The functions get a table of their own behind the module's (multiple tables are of WebAssembly 2.0), so that what the
//! module knows as function pointers stays as it is. Those that are called at most places come first in it, since
//! small numbers are short.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    convert::Infallible,
};

use wasm_encoder::{
    CodeSection, ConstExpr, ElementSection, Elements, Instruction, Module, RefType, TableSection,
    TableType,
    reencode::{self, Reencode, utils},
};
use wasmparser::{
    ElementSectionReader, FunctionBody, Operator, Parser, Payload, TableSectionReader, TypeRef,
    Validator,
};

/// Why there is no result.
pub type Error = Box<dyn std::error::Error>;

/// Returns `module` with calls through a table to functions whose bodies have at least `min_bytes` bytes.
pub fn rewrite(module: &[u8], min_bytes: usize) -> Result<Vec<u8>, Error> {
    let outline = Outline::of(module)?;
    let Some(own_tables) = outline.own_tables else {
        return Err("it has no table section, so it is not the module that is meant".into());
    };
    let mut larger: Vec<u32> = outline.calls.keys().copied().collect();
    larger.retain(|function| {
        outline
            .bytes
            .get(function)
            .is_some_and(|bytes| *bytes >= min_bytes)
    });
    // Of equal ones the order stays, so that a module has one result.
    larger.sort_by_key(|function| Reverse(outline.calls.get(function).copied()));
    let mut calls = Calls {
        table: outline.imported_tables + own_tables,
        slots: (0..)
            .zip(&larger)
            .map(|(slot, function)| (*function, slot))
            .collect(),
        functions: larger,
        types: outline.types,
    };
    let mut written = Module::new();
    calls.parse_core_module(&mut written, Parser::new(0), module)?;
    let bytes = written.finish();
    Validator::new().validate_all(&bytes)?;
    Ok(bytes)
}

/// What has to be known before the first call is changed. Functions are known by their numbers.
#[derive(Default)]
struct Outline {
    imported_functions: u32,
    imported_tables: u32,
    own_tables: Option<u32>,
    /// The type of each function that has a body.
    types: HashMap<u32, u32>,
    /// The length of each body, in bytes.
    bytes: HashMap<u32, usize>,
    /// At how many places each function is called.
    calls: BTreeMap<u32, u32>,
}

impl Outline {
    fn of(module: &[u8]) -> Result<Self, Error> {
        let mut outline = Self::default();
        let mut bodies = 0;
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) => outline.imported_functions += 1,
                            TypeRef::Table(_) => outline.imported_tables += 1,
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(types) => {
                    for (number, of) in (outline.imported_functions..).zip(types) {
                        outline.types.insert(number, of?);
                    }
                }
                Payload::TableSection(tables) => outline.own_tables = Some(tables.count()),
                Payload::CodeSectionEntry(body) => {
                    let number = outline.imported_functions + bodies;
                    bodies += 1;
                    outline.bytes.insert(number, body.as_bytes().len());
                    for operator in body.get_operators_reader()? {
                        if let Operator::Call { function_index } = operator? {
                            *outline.calls.entry(function_index).or_default() += 1;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }
}

/// The change.
struct Calls {
    /// Number of the new table.
    table: u32,
    /// What is in it, in order.
    functions: Vec<u32>,
    /// The place of each of these.
    slots: HashMap<u32, i32>,
    types: HashMap<u32, u32>,
}

impl Calls {
    /// Returns the place in the table and the type of what `operator` calls, if that is in the table.
    fn called(&self, operator: &Operator<'_>) -> Option<(i32, u32)> {
        let Operator::Call { function_index } = operator else {
            return None;
        };
        let slot = self.slots.get(function_index)?;
        Some((*slot, *self.types.get(function_index)?))
    }
}

impl Reencode for Calls {
    type Error = Infallible;

    fn parse_table_section(
        &mut self,
        tables: &mut TableSection,
        section: TableSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_table_section(self, tables, section)?;
        let length = self.functions.len() as u64;
        tables.table(TableType {
            element_type: RefType::FUNCREF,
            table64: false,
            minimum: length,
            maximum: Some(length),
            shared: false,
        });
        Ok(())
    }

    fn parse_element_section(
        &mut self,
        elements: &mut ElementSection,
        section: ElementSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_element_section(self, elements, section)?;
        let functions = Elements::Functions(self.functions.as_slice().into());
        elements.active(Some(self.table), &ConstExpr::i32_const(0), functions);
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), reencode::Error> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            if let Some((slot, type_index)) = self.called(&operator) {
                function.instruction(&Instruction::I32Const(slot));
                let table_index = self.table;
                function.instruction(&Instruction::CallIndirect {
                    type_index,
                    table_index,
                });
            } else {
                function.instruction(&self.instruction(operator)?);
            }
        }
        code.function(&function);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with a host's function, one that another knows by a pointer, a small one, and two larger ones.
    const MODULE: &str = r#"(module
        (type $none (func))
        (type $number (func (param i32) (result i32)))
        (import "env" "host" (func $host (type $number)))
        (table 2 2 funcref)
        (elem (i32.const 1) $pointed)
        (memory 1)
        (data (i32.const 8) "unchanged")
        (func $pointed (type $none))
        (func $small (type $number) local.get 0)
        (func $once (type $none) nop nop nop nop nop nop nop nop nop nop)
        (func $twice (type $number) i32.const 1000000 i32.const 1000000 i32.const 1000000 drop drop)
        (func $last (export "last") (type $number)
            call $once
            i32.const 1 call_indirect (type $none)
            local.get 0 call $twice call $small call $host call $twice))"#;

    fn rewritten(text: &str, min_bytes: usize) -> Result<String, Error> {
        let result = rewrite(&wat::parse_str(text)?, min_bytes)?;
        Ok(wasmprinter::print_bytes(result)?)
    }

    /// Returns the instructions of the last function of `text` that call, in order.
    fn calls(text: &str) -> Vec<&str> {
        let (_, last) = text.rsplit_once("(func $last").unwrap();
        let (last, _) = last.split_once("(data").unwrap();
        let lines = last.lines().map(str::trim);
        lines
            .filter(|line| line.contains("call") || line.contains("const"))
            .collect()
    }

    #[test]
    fn larger_functions_are_called_through_a_table_of_their_own() {
        let text = rewritten(MODULE, 10).unwrap();
        let expected = [
            "i32.const 1",
            "call_indirect 1 (type $none)",
            "i32.const 1",
            "call_indirect (type $none)",
            "i32.const 0",
            "call_indirect 1 (type $number)",
            "call $small",
            "call $host",
            "i32.const 0",
            "call_indirect 1 (type $number)",
        ];
        assert_eq!(calls(&text), expected, "{text}");
        for part in [
            "(table (;0;) 2 2 funcref)",
            "(table (;1;) 2 2 funcref)",
            "(elem (;0;) (i32.const 1) func $pointed)",
            "(elem (;1;) (table 1) (i32.const 0) func $twice $once)",
            r#"(data (;0;) (i32.const 8) "unchanged")"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn nothing_else_is_changed() {
        let module = wat::parse_str(MODULE).unwrap();
        let text = wasmprinter::print_bytes(&module).unwrap();
        let rewritten = rewritten(MODULE, usize::MAX).unwrap();
        assert_eq!(calls(&rewritten), calls(&text));
        let again = |module: &[u8]| rewrite(module, 10).unwrap();
        assert_eq!(again(&module), again(&module));
    }

    #[test]
    fn what_is_no_such_module_is_refused() {
        assert!(rewrite(b"\0asm", 10).is_err());
        assert!(rewritten("(module)", 10).is_err());
    }
}
