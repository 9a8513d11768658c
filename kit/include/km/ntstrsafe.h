/* Counted string copying: inline functions that Rust has no use for. wdk-sys includes the header. */
#pragma once
