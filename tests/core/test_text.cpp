#include "base/sha256.h"
#include "base/text.h"

#include <gtest/gtest.h>

using namespace espalier;

TEST(Text, InvalidUtf8IsFoundAtItsByte)
{
    EXPECT_FALSE(invalidUtf8Offset("Grün \xF0\x9F\x8C\xB3 日本").has_value());
    EXPECT_EQ(invalidUtf8Offset("abc\xFF"), 3u);
    EXPECT_EQ(invalidUtf8Offset("ab\xC0\xAF"), 2u);        // overlong
    EXPECT_EQ(invalidUtf8Offset("a\xED\xA0\x80"), 1u);     // surrogate
    EXPECT_EQ(invalidUtf8Offset("\xF4\x90\x80\x80"), 0u);  // beyond U+10FFFF
    EXPECT_EQ(invalidUtf8Offset("ok\xE2\x82"), 2u);        // cut off
}

TEST(Text, SizesAsPeopleWriteThem)
{
    EXPECT_EQ(*parseByteSize("4GiB"), 4ll << 30);
    EXPECT_EQ(*parseByteSize("512 MiB"), 512ll << 20);
    EXPECT_EQ(*parseByteSize("1.5GB"), 1500000000ll);
    EXPECT_EQ(*parseByteSize("1000"), 1000);
    for (const char* bad : {"", "GiB", "4GiBs", "-1GiB", "nan", "1e30GiB", "4 apples"})
        EXPECT_FALSE(parseByteSize(bad).ok()) << bad;
    EXPECT_EQ(formatBytes(15380088), "14.7 MiB");
    EXPECT_EQ(formatCount(14315784192), "14.3 B");
    EXPECT_EQ(formatCount(8650752), "8.65 M");
    EXPECT_EQ(formatSeconds(418), "6 min 58 s");
}

TEST(Text, KnownDigest) { EXPECT_EQ(sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); }
