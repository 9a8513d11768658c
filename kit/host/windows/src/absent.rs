//! A registry without keys.

#![allow(non_snake_case, non_camel_case_types, clippy::upper_case_acronyms)]
#![allow(clippy::missing_safety_doc, reason = "nothing here is dereferenced")]

pub mod core {
    #[derive(Clone, Copy)]
    pub struct PCSTR(pub *const u8);

    /// A literal as a [`PCSTR`].
    #[macro_export]
    macro_rules! pcstr {
        ($text:literal) => {
            $crate::core::PCSTR(concat!($text, '\0').as_ptr())
        };
    }
    pub use pcstr as s;
}

pub mod Win32 {
    pub mod System {
        pub mod Registry {
            use ::core::ffi::c_void;

            use crate::core::PCSTR;

            #[derive(Clone, Copy)]
            pub struct HKEY(pub *mut c_void);

            impl Default for HKEY {
                fn default() -> Self {
                    Self(::core::ptr::null_mut())
                }
            }

            #[derive(Clone, Copy)]
            pub struct REG_SAM_FLAGS(pub u32);

            #[derive(Clone, Copy)]
            pub struct REG_ROUTINE_FLAGS(pub u32);

            #[derive(Clone, Copy)]
            pub struct WIN32_ERROR(pub u32);

            impl WIN32_ERROR {
                pub const fn is_ok(self) -> bool {
                    self.0 == 0
                }

                pub const fn ok(self) -> Result<(), u32> {
                    if self.is_ok() { Ok(()) } else { Err(self.0) }
                }
            }

            pub const HKEY_LOCAL_MACHINE: HKEY =
                HKEY(::core::ptr::without_provenance_mut(0x8000_0002));
            pub const KEY_READ: REG_SAM_FLAGS = REG_SAM_FLAGS(0x2_0019);
            pub const RRF_RT_REG_SZ: REG_ROUTINE_FLAGS = REG_ROUTINE_FLAGS(2);
            const ERROR_FILE_NOT_FOUND: WIN32_ERROR = WIN32_ERROR(2);

            pub const unsafe fn RegOpenKeyExA(
                _key: HKEY,
                _sub_key: PCSTR,
                _options: Option<u32>,
                _access: REG_SAM_FLAGS,
                _result: *mut HKEY,
            ) -> WIN32_ERROR {
                ERROR_FILE_NOT_FOUND
            }

            pub const unsafe fn RegGetValueA(
                _key: HKEY,
                _sub_key: Option<PCSTR>,
                _value: PCSTR,
                _flags: REG_ROUTINE_FLAGS,
                _kind: Option<*mut u32>,
                _data: Option<*mut c_void>,
                _size: Option<*mut u32>,
            ) -> WIN32_ERROR {
                ERROR_FILE_NOT_FOUND
            }

            pub const unsafe fn RegCloseKey(_key: HKEY) -> WIN32_ERROR {
                WIN32_ERROR(0)
            }
        }
    }
}
