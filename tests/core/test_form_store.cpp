// What a store of matrices keeps when memory is short: decompositions go first, and nothing that is computed changes.
#include "core/compression_fixture.h"
#include "model/form_store.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace espalier
{
namespace
{

using test::openTiny;
using test::take;

constexpr std::int64_t kMuch = std::int64_t{1} << 30;

class Matrices
{
public:
    explicit Matrices(int rank) : m_form(MatrixForm::lowRank(rank))
    {
        for (int expert = 0; expert < 3; ++expert)
            for (int matrix = 0; matrix < 3; ++matrix)
                m_requests.push_back({expert, matrix, &m_form, nullptr, {}});
    }
    std::vector<Linear> of(FormStore& store, int layer) const { return take(store.linears(layer, nullptr, {}, m_requests)); }

private:
    MatrixForm m_form;
    std::vector<FormRequest> m_requests;
};

void expectSame(const std::vector<Linear>& a, const std::vector<Linear>& b)
{
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_TRUE(at::equal(a[i].u.rowMajor(), b[i].u.rowMajor())) << i;
        EXPECT_TRUE(at::equal(a[i].v.rowMajor(), b[i].v.rowMajor())) << i;
    }
}

TEST(FormStore, DecompositionsGoFirstAndChangeNothing)
{
    const auto checkpoint = openTiny("mixtral-tiny");
    const Placement placement;
    const auto storeOf = [&](std::int64_t budget) { return std::make_unique<FormStore>(checkpoint, at::kFloat, placement, budget); };
    const Matrices small(3), large(6);
    const auto roomy = storeOf(kMuch);
    const std::vector<Linear> smallOnes = small.of(*roomy, 0);
    const std::int64_t withBases = roomy->bytes();
    const std::int64_t cut = roomy->builtBytes();
    EXPECT_GT(withBases, cut);
    const std::vector<Linear> largeOnes = large.of(*roomy, 0);

    // Room for two layers of cuts, not for what they were cut from.
    const auto tight = storeOf(2 * cut);
    expectSame(small.of(*tight, 0), smallOnes);
    small.of(*tight, 1);
    EXPECT_EQ(tight->bytes(), 2 * cut);
    EXPECT_EQ(tight->builtBytes(), 2 * cut);
    // Both are still there ..
    expectSame(small.of(*tight, 0), smallOnes);
    small.of(*tight, 1);
    EXPECT_EQ(tight->builtBytes(), 2 * cut);
    // .. and another rank begins with the decomposition again.
    expectSame(large.of(*tight, 0), largeOnes);
    EXPECT_GT(tight->builtBytes(), 2 * cut);
    expectSame(small.of(*tight, 0), smallOnes);

    // What does not fit beside what is asked for is made every time.
    const auto none = storeOf(0);
    for (int time = 1; time <= 2; ++time) {
        expectSame(small.of(*none, 0), smallOnes);
        small.of(*none, 1);
        EXPECT_EQ(none->builtBytes(), 2 * time * cut);
    }
}

}  // namespace
}  // namespace espalier
