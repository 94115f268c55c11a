//! What may be deployed as a WebAssembly contract, and what is made of it.

use std::sync::{Arc, LazyLock};

use revm::primitives::keccak256;
use wasmi::{CompilationMode, Config, EnforcedLimits, Engine, ExternType, FuncType, Module};

use super::host;
use crate::engine::cache::CodeCache;

/// Largest module, in bytes: what fits a transaction with its frame and input.
pub const MODULE_BYTES_MAX: usize = 96 * 1024;
/// Most pages of memory, of 64 KiB each: 4 MiB for a call that runs, and there are as many of those as
/// processors.
pub const MEMORY_PAGES_MAX: u32 = 64;
/// Most elements of a table, of 16 bytes each.
pub(super) const TABLE_ELEMENTS_MAX: usize = 4_096;
/// Calls within calls.
const RECURSION_MAX: usize = 1_024;
/// Largest stack of values, in bytes: 1,024 calls of 128 values each.
const STACK_BYTES_MAX: usize = 1024 * 1024;

/// Function that runs when the contract is made; it need not be there.
pub(super) const DEPLOY: &str = "deploy";
/// Function that runs when the contract is called.
pub(super) const CALL: &str = "call";
/// The memory that the host reads and writes.
pub(super) const MEMORY: &str = "memory";

/// Bytes of modules that are kept compiled, by the arithmetic below.
const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a compiled module takes for each byte of it, at most: the code is translated to instructions
/// of 8 to 16 bytes, for WebAssembly's one to three; the bytes themselves are not kept.
const COMPILED_PER_BYTE: usize = 16;
/// What a compiled module takes besides, with the engine that owns its code.
const COMPILED_BYTES: usize = 16 * 1024;

/// Why a module is not taken. Deploying it again is useless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// Too long.
    #[error("the module has {0} bytes; {MODULE_BYTES_MAX} are allowed")]
    Length(usize),
    /// No valid module without floats. The text has the offset.
    #[error("not a module that this chain runs: {0}")]
    Invalid(String),
    /// It asks for something that there is not.
    #[error("it imports `{module}.{name}`, which there is not; see the host interface")]
    Import {
        /// From which module.
        module: String,
        /// What.
        name: String,
    },
    /// It asks for a host function of another type.
    #[error("it imports `ghost.{name}` as {found}; its type is {expected}")]
    ImportType {
        /// Which.
        name: String,
        /// In the module.
        found: String,
        /// Of the host.
        expected: String,
    },
    /// Something that must be exported is not.
    #[error("it must export {0}")]
    Export(&'static str),
    /// Memory that is larger than allowed from the beginning.
    #[error("its memory begins with {0} pages; {MEMORY_PAGES_MAX} are allowed")]
    Memory(u64),
    /// Input for a constructor that is not there.
    #[error("there is input for a constructor, and no function `deploy` to read it")]
    NoConstructor,
}

/// A module that can run. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Compiled(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    code_hash: [u8; 32],
    code_bytes: usize,
    pages: u64,
    has_constructor: bool,
    /// Owns the code of this module and of no other: with it, all that was compiled is freed.
    engine: Engine,
    module: Module,
}

fn configuration() -> Config {
    let mut config = Config::default();
    config
        .consume_fuel(true)
        .compilation_mode(CompilationMode::Eager)
        .enforced_limits(EnforcedLimits::strict())
        .ignore_custom_sections(true)
        .allow_start_fn(false)
        .set_max_recursion_depth(RECURSION_MAX)
        .set_max_stack_height(STACK_BYTES_MAX)
        .set_max_cached_stacks(0);
    // # Correctness: floats are where WebAssembly leaves results open (the bits of a NaN). Without them
    // every instruction has one result.
    config
        .floats(false)
        .wasm_saturating_float_to_int(false)
        .wasm_multi_memory(false)
        .wasm_reference_types(false)
        .wasm_tail_call(false)
        .wasm_extended_const(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

static CACHE: LazyLock<CodeCache<Compiled>> = LazyLock::new(|| CodeCache::new(CACHE_BYTES_MAX));

/// A type as WebAssembly's text format writes it.
fn text_of(ty: &FuncType) -> String {
    let list = |types: &[wasmi::ValType]| {
        types.iter().map(|ty| format!("{ty:?}").to_lowercase()).collect::<Vec<_>>().join(" ")
    };
    format!("({}) -> ({})", list(ty.params()), list(ty.results()))
}

impl Compiled {
    /// Checks and compiles a module, and keeps it for the next time.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub(super) fn of(code: &[u8]) -> Result<Self, ModuleError> {
        if code.len() > MODULE_BYTES_MAX {
            return Err(ModuleError::Length(code.len()));
        }
        let code_hash = keccak256(code).0;
        if let Some(compiled) = Self::kept(&code_hash) {
            return Ok(compiled);
        }
        let engine = Engine::new(&configuration());
        let module = Module::new(&engine, code).map_err(|error| ModuleError::Invalid(error.to_string()))?;
        for import in module.imports() {
            let known = host::function_type(import.name()).filter(|_| import.module() == host::MODULE);
            let (Some(expected), ExternType::Func(found)) = (known, import.ty()) else {
                let (module, name) = (import.module().to_owned(), import.name().to_owned());
                return Err(ModuleError::Import { module, name });
            };
            if *found != expected {
                return Err(ModuleError::ImportType {
                    name: import.name().to_owned(),
                    found: text_of(found),
                    expected: text_of(&expected),
                });
            }
        }
        let pages = match module.get_export(MEMORY) {
            Some(ExternType::Memory(memory)) => memory.minimum(),
            _ => return Err(ModuleError::Export("its memory as `memory`")),
        };
        if pages > u64::from(MEMORY_PAGES_MAX) {
            return Err(ModuleError::Memory(pages));
        }
        let plain = |name| match module.get_export(name) {
            None => Ok(false),
            Some(ExternType::Func(ty)) if ty.params().is_empty() && ty.results().is_empty() => Ok(true),
            Some(_) => {
                Err(ModuleError::Export("`call` and `deploy` as functions without parameters and results"))
            }
        };
        if !plain(CALL)? {
            return Err(ModuleError::Export("a function `call`"));
        }
        let has_constructor = plain(DEPLOY)?;
        let code_bytes = code.len();
        let compiled =
            Self(Arc::new(Inner { code_hash, code_bytes, pages, has_constructor, engine, module }));
        CACHE.put(code_hash, compiled.clone(), COMPILED_BYTES + COMPILED_PER_BYTE * code.len());
        Ok(compiled)
    }

    /// A module that was compiled before and is still kept.
    pub(super) fn kept(code_hash: &[u8; 32]) -> Option<Self> {
        CACHE.get(code_hash)
    }

    /// Keccak-256 of the module: what its code is kept under.
    pub(super) fn code_hash(&self) -> [u8; 32] {
        self.0.code_hash
    }

    /// Length of the module.
    pub(super) fn code_bytes(&self) -> usize {
        self.0.code_bytes
    }

    /// Pages of memory that it begins with.
    pub(super) fn pages(&self) -> u64 {
        self.0.pages
    }

    /// True if something runs when it is deployed.
    pub(super) fn has_constructor(&self) -> bool {
        self.0.has_constructor
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn module(&self) -> &Module {
        &self.0.module
    }
}
