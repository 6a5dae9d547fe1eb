//! What can be known of an expression's types before any event: mistakes that could never give a value.
//!
//! Pure. Fields whose type nobody declared can be anything; of the fields that Keyloom knows by name all are texts.

use std::{collections::BTreeMap, fmt};

use cel::{
    IdedExpr,
    common::ast::{Expr, LiteralValue, operators as op},
};

use super::{
    definition::FieldType,
    predicate::path_of,
    syntax::{Parsed, Wrong},
};

/// The type of a value, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Bool,
    Number,
    Text,
    List,
    Object,
    Null,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "of any type",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
            Self::Null => "null",
        })
    }
}

/// What names in an expression mean.
pub(super) enum Names<'a> {
    /// Fields of events; `Some` when it is known which there are.
    Fields(Option<&'a BTreeMap<String, FieldType>>),
    /// Other features.
    Features(&'a BTreeMap<&'a str, Type>),
}

impl Names<'_> {
    fn type_of(&self, name: &str) -> Option<Type> {
        match self {
            Self::Features(features) => features.get(name).copied(),
            Self::Fields(declared) => {
                let declared = match declared {
                    Some(fields) => match fields.get(name) {
                        Some(declared) => declared,
                        None => return is_known(name).then_some(Type::Text),
                    },
                    None => return Some(if is_known(name) { Type::Text } else { Type::Any }),
                };
                Some(match declared {
                    FieldType::Text => Type::Text,
                    FieldType::Number => Type::Number,
                    FieldType::Bool => Type::Bool,
                    FieldType::Nested | FieldType::Any => Type::Any,
                })
            }
        }
    }

    fn unknown(&self, name: &str) -> Wrong {
        let near = match self {
            Self::Features(features) => nearest(name, features.keys().copied()),
            Self::Fields(fields) => {
                let known = crate::event::fields::FieldId::KNOWN.iter().map(|(_, name)| *name);
                nearest(name, fields.iter().flat_map(|f| f.keys().map(String::as_str)).chain(known))
            }
        };
        let (what, advice) = match self {
            Self::Features(_) => ("feature", "name another feature of this topology"),
            Self::Fields(_) => ("field", "add it to [features] fields, with its type"),
        };
        let help = near.map_or_else(|| advice.to_owned(), |near| format!("did you mean {near}? Else {advice}"));
        Wrong::new(format!("there is no {what} {name}"), help, None)
    }
}

fn is_known(name: &str) -> bool {
    crate::event::fields::FieldId::KNOWN.iter().any(|(_, known)| *known == name)
}

/// The candidate that differs from `name` in one place.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let wanted = plain(name);
    let close = |candidate: &str| {
        let (a, b): (Vec<char>, Vec<char>) = (wanted.chars().collect(), plain(candidate).chars().collect());
        let front = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        let back = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
        // One letter more, less, or other; or two neighbours the other way round.
        front + back + 1 >= a.len().max(b.len()) || (a.len() == b.len() && front + back + 2 == a.len())
    };
    candidates.into_iter().find(|candidate| close(candidate))
}

/// The type of an expression, or what in it cannot be.
pub(super) fn check(parsed: &Parsed, names: &Names<'_>) -> Result<Type, Wrong> {
    for name in &parsed.names {
        if names.type_of(&name.name).is_none() {
            return Err(Wrong { at: name.at.clone(), ..names.unknown(&name.name) });
        }
    }
    Check { parsed, names, macros: 0 }.type_of(&parsed.expr)
}

struct Check<'a> {
    parsed: &'a Parsed,
    names: &'a Names<'a>,
    /// In a macro, names may be its own.
    macros: u32,
}

impl Check<'_> {
    fn type_of(&mut self, expr: &IdedExpr) -> Result<Type, Wrong> {
        Ok(match &expr.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::String(_) => Type::Text,
                LiteralValue::Null => Type::Null,
                LiteralValue::Bytes(_) => Type::Any,
                LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_) => Type::Number,
            },
            Expr::Ident(_) if self.macros > 0 => Type::Any,
            Expr::Ident(name) => self.names.type_of(name).unwrap_or(Type::Any),
            Expr::Select(select) => {
                let of = self.type_of(&select.operand)?;
                if !matches!(of, Type::Any | Type::Object) {
                    return Err(self.wrong(
                        expr,
                        format!("{} is {of}: it has no member {}", name_of(&select.operand), select.field),
                    ));
                }
                if select.test { Type::Bool } else { Type::Any }
            }
            Expr::List(list) => {
                list.elements.iter().try_for_each(|element| self.type_of(element).map(drop))?;
                Type::List
            }
            Expr::Comprehension(inner) => {
                self.type_of(&inner.iter_range)?;
                self.macros += 1;
                let parts = [&inner.loop_step, &inner.result];
                let checked = parts.into_iter().try_for_each(|part| self.type_of(part).map(drop));
                self.macros -= 1;
                checked?;
                Type::Any
            }
            Expr::Call(call) => {
                let args = call.args.iter().map(|arg| self.type_of(arg)).collect::<Result<Vec<_>, _>>()?;
                let target = call.target.as_deref().map(|target| self.type_of(target)).transpose()?;
                self.call(expr, &call.func_name, target, &args)?
            }
            _ => Type::Any,
        })
    }

    fn call(&self, expr: &IdedExpr, name: &str, target: Option<Type>, args: &[Type]) -> Result<Type, Wrong> {
        use Type::{Any, Bool, List, Null, Number, Object, Text};
        let only = |types: &[Type], what: &str| match args.iter().find(|t| **t != Any && !types.contains(t)) {
            Some(other) => Err(self.wrong(expr, format!("{what}, and this is {other}"))),
            None => Ok(()),
        };
        let pair = match args {
            [a, b] if *a != Any && *b != Any && a != b => Some((*a, *b)),
            _ => None,
        };
        Ok(match (name, target, args) {
            (op::EQUALS | op::NOT_EQUALS, None, _) => {
                if let Some((a, b)) = pair.filter(|(a, b)| *a != Null && *b != Null) {
                    return Err(self.wrong(expr, format!("compares {a} with {b}: they are never equal")));
                }
                Bool
            }
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, None, _) => {
                only(&[Number, Text, Bool], "only numbers, texts and truth values have an order")?;
                if let Some((a, b)) = pair {
                    return Err(self.wrong(expr, format!("compares {a} with {b}: they have no order")));
                }
                Bool
            }
            (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT, None, _) => {
                only(&[Bool], "&&, || and ! join what is true or false")?;
                Bool
            }
            (op::CONDITIONAL, None, [condition, a, b]) => {
                if !matches!(condition, Any | Bool) {
                    return Err(self.wrong(expr, format!("chooses by what is true or false, and this is {condition}")));
                }
                if a == b { *a } else { Any }
            }
            (op::ADD, None, [a, b]) => {
                only(&[Number, Text, List], "+ joins numbers, texts or lists")?;
                if let Some((a, b)) = pair {
                    return Err(self.wrong(expr, format!("adds {a} and {b}")));
                }
                if *a == Any { *b } else { *a }
            }
            (op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO | op::NEGATE, None, _) => {
                only(&[Number], "computes with numbers")?;
                Number
            }
            (op::IN, None, [_, list]) => {
                if !matches!(list, Any | List | Object) {
                    return Err(self.wrong(expr, format!("looks for something in what is {list}")));
                }
                Bool
            }
            ("size", ..) => {
                let of = target.or(args.first().copied()).unwrap_or(Any);
                if !matches!(of, Any | Text | List | Object) {
                    return Err(self.wrong(expr, format!("takes the size of what is {of}")));
                }
                Number
            }
            ("contains" | "startsWith" | "endsWith", Some(of), _) => {
                only(&[Text], &format!("{name} looks for a text"))?;
                if !matches!(of, Any | Text) {
                    return Err(self.wrong(expr, format!("{name} looks into a text, and this is {of}")));
                }
                if args.len() != 1 {
                    return Err(self.wrong(expr, format!("{name} takes one text")));
                }
                Bool
            }
            ("contains" | "startsWith" | "endsWith", None, _) => {
                return Err(self.wrong(expr, format!("{name} is written after a text: page_url.{name}('/cart')")));
            }
            ("int" | "uint" | "double" | "string" | "bool", None, _) => {
                if args.len() != 1 {
                    return Err(self.wrong(expr, format!("{name} takes one value")));
                }
                match name {
                    "string" => Text,
                    "bool" => Bool,
                    _ => Number,
                }
            }
            _ => Any,
        })
    }

    fn wrong(&self, expr: &IdedExpr, text: String) -> Wrong {
        Wrong::new(text, "correct the expression", self.parsed.at(expr))
    }
}

fn name_of(expr: &IdedExpr) -> String {
    path_of(expr).map_or_else(|| "this".to_owned(), |path| path.to_string())
}
