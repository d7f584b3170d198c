#include "base/json.h"
#include "base/method_registry.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace espalier;

TEST(Json, NamesLineAndColumnOfDamage)
{
    const auto result = parseJson("{\n  \"a\": 1,\n  \"b\" 2\n}", "config.json", "config");
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, "config.invalid_json");
    EXPECT_NE(result.error().message.find("config.json"), std::string::npos);
    EXPECT_NE(result.error().message.find("line 3"), std::string::npos) << result.error().message;
}

TEST(Json, RefusesWhatWouldBeReadDifferentlyElsewhere)
{
    EXPECT_EQ(parseJson(R"({"a":1,"a":2})", "x", "plan").error().code, "plan.duplicate_key");
    EXPECT_FALSE(parseJson("{} trailing", "x", "plan").ok());
    EXPECT_FALSE(parseJson("{\"a\":\"\xff\"}", "x", "plan").ok());
    EXPECT_FALSE(parseJson("", "x", "plan").ok());
    EXPECT_FALSE(parseJson(std::string_view("{}\0{}", 5), "x", "plan").ok());
}

TEST(Json, DeepNestingIsRefusedInsteadOfOverflowingTheStack)
{
    const std::string deep(1000000, '[');
    EXPECT_EQ(parseJson(deep, "x", "plan").error().code, "plan.invalid_json");
}

TEST(Json, SizeLimitIsCheckedBeforeParsing)
{
    EXPECT_EQ(parseJson("[1,2,3]", "x", "plan", {.maxBytes = 4, .maxDepth = 8}).error().code, "plan.too_large");
}

TEST(Json, CanonicalFormIsSortedAndFinite)
{
    const Json value = {{"b", std::numeric_limits<double>::quiet_NaN()}, {"a", {1, 2}}, {"c", std::numeric_limits<double>::infinity()}};
    EXPECT_EQ(canonicalJson(value), R"({"a":[1,2],"b":null,"c":null})");
}

TEST(Json, ErrorsSurviveTheTrip)
{
    const Error error = unsupported("plan.version", "version", "The plan has version 9.", "Use a newer Espalier.");
    const Error back = errorFromJson(toJson(error));
    EXPECT_EQ(back.kind, error.kind);
    EXPECT_EQ(back.code, error.code);
    EXPECT_EQ(back.message, error.message);
    EXPECT_EQ(back.action, error.action);
}

TEST(MethodRegistry, ParametersAreCheckedAndFilledIn)
{
    MethodInfo method;
    method.id = "importance";
    ParamSpec alpha;
    alpha.key = "alpha";
    alpha.defaultValue = 0.15;
    alpha.high = 1.5;
    method.params = {alpha};
    EXPECT_DOUBLE_EQ(checkParams(method, {})->at("alpha").get<double>(), 0.15);
    EXPECT_EQ(checkParams(method, {{"alpha", 2.0}}).error().code, "method.bad_parameter");
    EXPECT_EQ(checkParams(method, {{"alpha", "much"}}).error().code, "method.bad_parameter");
    EXPECT_EQ(checkParams(method, {{"beta", 1}}).error().code, "method.bad_parameter");
    const auto back = methodFromJson(toJson(method));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back->params[0].high, 1.5);
}
