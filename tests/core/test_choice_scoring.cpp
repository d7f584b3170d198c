// Requests that share their beginnings, computed together: each must have the log-likelihood it has alone, in every architecture (rotary
// positions, sliding windows, latent attention).
#include "core/compression_fixture.h"
#include "evaluate/choice_scoring.h"
#include "model/moe_model_torch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace espalier
{

namespace
{

using test::modelOf;
using test::openTiny;
using test::stream;
using test::take;

ChoiceRequest request(const std::vector<int>& before, const std::vector<int>& after)
{
    ChoiceRequest result;
    result.ids = before;
    result.ids.insert(result.ids.end(), after.begin(), after.end());
    result.scored = static_cast<int>(after.size());
    result.contextTokens = static_cast<int>(before.size());
    return result;
}

std::vector<ChoiceScore> scored(MoeModel& model, const CompressionPlan& plan, const std::vector<ChoiceRequest>& requests)
{
    SilentJob job;
    std::vector<ChoiceScore> scores(requests.size());
    std::vector<int> heard(requests.size(), 0);
    const Status status = scoreChoices(model, plan, requests, job, [&](std::size_t i, const ChoiceScore& score) {
        scores[i] = score;
        ++heard[i];
        return Status();
    });
    EXPECT_TRUE(status.ok()) << status.error().describe();
    EXPECT_EQ(heard, std::vector<int>(requests.size(), 1));
    return scores;
}

// The sum as its definition says: one row, its whole logits.
double alone(MoeModel& model, const CompressionPlan& plan, const ChoiceRequest& request)
{
    const c10::InferenceMode inference;
    const at::Tensor ids = at::tensor(std::vector<std::int64_t>(request.ids.begin(), request.ids.end())).unsqueeze(0);
    const at::Tensor hidden = take(model.finalNorm(take(model.hiddenStates(ids, take(model.prepare(plan))))));
    const at::Tensor logs = at::log_softmax(take(model.logits(hidden.flatten(0, 1))).to(at::kDouble), -1);
    double sum = 0;
    const auto length = static_cast<std::int64_t>(request.ids.size());
    for (std::int64_t i = length - request.scored; i < length; ++i)
        sum += logs[i - 1][request.ids[static_cast<std::size_t>(i)]].item<double>();
    return sum;
}

class ChoiceScoring : public ::testing::TestWithParam<const char*>
{
};

TEST_P(ChoiceScoring, SharedBeginningsChangeNothing)
{
    const auto model = modelOf(openTiny(GetParam()));
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const std::vector<int> text = stream("qwen2moe-tiny", 64).rows[0];
    const int vocabulary = static_cast<int>(model->shape().vocabularySize);
    const auto part = [&](int first, int last) {
        std::vector<int> ids(text.begin() + first, text.begin() + last);
        for (int& id : ids)
            id %= vocabulary;
        return ids;
    };
    std::vector<ChoiceRequest> requests;
    for (const int length : {1, 5, 30})
        for (const int choice : {0, 7, 20})
            requests.push_back(request(part(0, length), part(choice, choice + 1 + choice / 3)));
    requests.push_back(request(part(0, 12), part(12, 15)));  // split at two places
    requests.push_back(request(part(0, 14), part(14, 15)));
    requests.push_back(request(part(3, 4), part(9, 10)));  // a single token goes in
    requests.push_back(requests[4]);
    const std::vector<ChoiceScore> scores = scored(*model, dense, requests);
    for (std::size_t i = 0; i < requests.size(); ++i)
        EXPECT_NEAR(scores[i].logLikelihood, alone(*model, dense, requests[i]), 1e-4) << i;
    EXPECT_EQ(scores.back().logLikelihood, scores[4].logLikelihood) << "equal requests tie";
}
INSTANTIATE_TEST_SUITE_P(Architectures, ChoiceScoring,
                         ::testing::Values("qwen2moe-tiny", "qwen2moe-sliding", "qwen3moe-tiny", "mixtral-tiny", "mixtral-sliding",
                                           "olmoe-tiny", "deepseekv2-full-tiny", "deepseekv2-lite-tiny", "deepseekv3-tiny"));

// More than one row, weights read from the disk layer by layer: the same bits.
TEST(ChoiceScoringRows, StreamedEqualsResident)
{
    const auto checkpoint = openTiny("qwen2moe-tiny");
    const auto resident = modelOf(checkpoint);
    ModelOptions options;
    options.compute = ComputeType::Fp32;
    options.residency = Residency::Stream;
    const auto streamed = take(MoeModel::create(checkpoint, options));
    std::vector<ChoiceRequest> requests;
    const TokenWindows windows = stream("qwen2moe-tiny", 64);
    for (const std::vector<int>& row : windows.rows)
        for (const int split : {20, 40, 60})
            requests.push_back(request({row.begin(), row.begin() + split}, {row.begin() + split, row.end()}));
    const CompressionPlan dense = CompressionPlan::identity(checkpoint->shape());
    const auto one = scored(*resident, dense, requests);
    const auto other = scored(*streamed, dense, requests);
    for (std::size_t i = 0; i < requests.size(); ++i)
        EXPECT_EQ(one[i].logLikelihood, other[i].logLikelihood) << i;
}

class Part final : public WorkShare
{
public:
    Part(int rank, int size) : WorkShare(rank, size) {}
};

// Rows are laid of all requests: processes that share them, and a run that has some answers already, end with the same bits.
TEST(ChoiceScoringRows, SharedAndResumedAreTheSameBits)
{
    const auto model = modelOf(openTiny("qwen2moe-tiny"));
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const TokenWindows text = stream("qwen2moe-tiny", 64);
    std::vector<ChoiceRequest> requests;
    // Enough for several rows.
    for (const std::vector<int>& row : text.rows)
        for (const int length : {9, 40, 60})
            requests.push_back(request({row.begin(), row.begin() + length}, {row[60], row[61]}));
    const std::vector<ChoiceScore> whole = scored(*model, dense, requests);
    SilentJob job;
    std::vector<int> heard(requests.size(), 0);
    std::set<int> ranks;
    for (int rank = 0; rank < 3; ++rank)
        ASSERT_TRUE(scoreChoices(
                        *model, dense, requests, job,
                        [&](std::size_t i, const ChoiceScore& score) {
                            EXPECT_EQ(score.logLikelihood, whole[i].logLikelihood) << i;
                            ++heard[i];
                            ranks.insert(rank);
                            return Status();
                        },
                        Part(rank, 3))
                        .ok());
    EXPECT_EQ(heard, std::vector<int>(requests.size(), 1));
    EXPECT_EQ(ranks.size(), 3u) << "too few rows for this test";

    std::set<std::size_t> some;
    const auto wanted = [](std::size_t i) { return i == 4 || i == 5; };
    ASSERT_TRUE(scoreChoices(
                    *model, dense, requests, job,
                    [&](std::size_t i, const ChoiceScore& score) {
                        EXPECT_EQ(score.logLikelihood, whole[i].logLikelihood) << i;
                        some.insert(i);
                        return Status();
                    },
                    WorkShare::none(), wanted)
                    .ok());
    EXPECT_TRUE(some.contains(4) && some.contains(5));
    EXPECT_LT(some.size(), requests.size());
}

TEST(ChoiceScoringRows, AnErrorOrAStopEndsTheRun)
{
    const auto model = modelOf(openTiny("qwen2moe-tiny"));
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const std::vector<ChoiceRequest> requests = {request({1, 2}, {3})};
    SilentJob job;
    const Status status = scoreChoices(*model, dense, requests, job,
                                       [](std::size_t, const ChoiceScore&) { return Status(badInput("test.no", "", "No.", "")); });
    EXPECT_EQ(status.error().code, "test.no");
    EXPECT_TRUE(scoreChoices(*model, dense, {}, job, [](std::size_t, const ChoiceScore&) { return Status(); }).ok());
}

}  // namespace

}  // namespace espalier
