// Compiler attributes, by the names the rest of the code uses.
#pragma once

#define BTD_HOT [[gnu::hot]]
#define BTD_COLD [[gnu::cold, gnu::noinline]]
#define BTD_ALWAYS_INLINE [[gnu::always_inline]] inline
#define BTD_EXPORT [[gnu::visibility("default")]]
#define BTD_WEAK [[gnu::weak]]
