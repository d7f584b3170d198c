// Errors carry what their sentences are made of.
#include "base/error.h"
#include "base/json.h"

#include <gtest/gtest.h>

namespace espalier
{
namespace
{

TEST(Error, TextsAreFilledFromTheirPatterns)
{
    const std::string file = "model.safetensors";
    const std::size_t layers = 3;
    const Error error =
        badInput("checkpoint.example", file,
                 {"{file} has {layers} layers, {share:.1f} % of {{all}}.", {{"file", file}, {"layers", layers}, {"share", 12.5}}},
                 {"Fetch {file} again.", {{"file", file}}});
    EXPECT_EQ(error.message, "model.safetensors has 3 layers, 12.5 % of {all}.");
    EXPECT_EQ(error.action, "Fetch model.safetensors again.");
    EXPECT_EQ(error.messagePattern, "{file} has {layers} layers, {share:.1f} % of {{all}}.");
    EXPECT_EQ(error.actionPattern, "Fetch {file} again.");
    EXPECT_EQ(error.parameters, (Parameters{{"file", file}, {"layers", 3}, {"share", 12.5}}));
    EXPECT_EQ(error.describe(), "model.safetensors has 3 layers, 12.5 % of {all}. Fetch model.safetensors again.");
    const Error plain = usageError("No places {here}.");
    EXPECT_EQ(plain.message, "No places {here}.");
    EXPECT_TRUE(plain.messagePattern.empty() && plain.parameters.empty());
}

TEST(Error, ParametersPassThroughJson)
{
    const Error error =
        unsupported("plan.example", "layer 3", {"Layer {layer}: {what}, {share}.", {{"layer", 3}, {"what", "int4"}, {"share", 0.25}}});
    const Json json = toJson(error);
    EXPECT_EQ(json["message_pattern"], "Layer {layer}: {what}, {share}.");
    EXPECT_EQ(json["parameters"], Json({{"layer", 3}, {"what", "int4"}, {"share", 0.25}}));
    EXPECT_FALSE(json.contains("action_pattern"));
    const Error back = errorFromJson(json);
    EXPECT_EQ(toJson(back), json);
    EXPECT_EQ(filledIn(back.messagePattern, back.parameters), error.message);
    // One without places says no more than before.
    const Json plain = toJson(badInput("a.b", "c", "Cause."));
    EXPECT_EQ(plain, Json({{"code", "a.b"}, {"subject", "c"}, {"message", "Cause."}, {"kept", ""}, {"action", ""}, {"exit_code", 3}}));
}

// A size in a damaged header may be any.
TEST(Error, NumbersBeyondTheSignedOnesKeepTheirDigits)
{
    EXPECT_EQ(badInput("a.b", "c", {"{bytes} bytes", {{"bytes", std::uint64_t{18446744073709551615u}}}}).message,
              "18446744073709551615 bytes");
    EXPECT_EQ(badInput("a.b", "c", {"{bytes} bytes", {{"bytes", std::int64_t{-1}}}}).message, "-1 bytes");
}

TEST(Error, APatternIsFilledOnlyByWhatItNames)
{
    EXPECT_EQ(filledIn("{b} {a}", {{"a", 1}, {"b", "x"}}), "x 1");
    EXPECT_FALSE(filledIn("{c}", {{"a", 1}}));
    EXPECT_FALSE(filledIn("{a:.1f}", {{"a", "text"}}));
    EXPECT_FALSE(filledIn("{a", {{"a", 1}}));
}

}  // namespace
}  // namespace espalier
