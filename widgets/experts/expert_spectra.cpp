#include "experts/expert_spectra.h"

#include <QCoreApplication>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

Result<QVector<QPointF>> pointsFrom(const Json& list)
{
    QVector<QPointF> points;
    for (const Json& point : list) {
        if (!point.is_array() || point.size() != 2 || !point[0].is_number() || !point[1].is_number() ||
            (!points.isEmpty() && point[0].get<double>() <= points.back().x()))
            return resourceError("engine.answer", "rank_curves", "The engine's answer cannot be understood.",
                                 "Choose an engine of this version.");
        points.append({point[0].get<double>(), point[1].get<double>()});
    }
    return points;
}

}  // namespace

double MatrixSpectrum::lostAt(double rank) const
{
    if (error.isEmpty()) return std::nan("");
    if (rank <= error.front().x()) return error.front().y();
    if (rank >= error.back().x()) return error.back().y();
    const auto after = std::upper_bound(error.begin(), error.end(), rank, [](double r, const QPointF& p) { return r < p.x(); });
    const QPointF& b = *after;
    const QPointF& a = *std::prev(after);
    return a.y() + (b.y() - a.y()) * (rank - a.x()) / (b.x() - a.x());
}

std::optional<int> MatrixSpectrum::rankKeeping(double energy) const
{
    for (int i = 0; i < error.size(); ++i) {
        if (1 - error[i].y() < energy) continue;
        if (i == 0) return static_cast<int>(error[i].x());
        const QPointF& a = error[i - 1];
        const QPointF& b = error[i];
        const double at = a.x() + (b.x() - a.x()) * (a.y() - (1 - energy)) / std::max(1e-300, a.y() - b.y());
        return std::clamp(static_cast<int>(std::ceil(at - 1e-9)), static_cast<int>(a.x()), static_cast<int>(b.x()));
    }
    return std::nullopt;
}

bool ExpertSpectra::empty() const { return matrices[0].empty() && matrices[1].empty() && matrices[2].empty(); }

Result<ExpertSpectra> ExpertSpectra::fromJson(const Json& value)
{
    ExpertSpectra curves;
    try {
        curves.cell = {value.at("layer").get<int>(), value.at("expert").get<int>()};
        curves.whitened = value.value("whitened", false);
        const char* const names[] = {"gate", "up", "down"};
        for (std::size_t m = 0; m < 3; ++m) {
            const Json& matrix = value.at("matrices").at(names[m]);
            MatrixSpectrum& curve = curves.matrices[m];
            curve.rows = matrix.at("rows").get<int>();
            curve.columns = matrix.at("columns").get<int>();
            curve.fullRank = matrix.at("full_rank").get<int>();
            curve.breakEven = matrix.at("break_even").get<int>();
            ESPALIER_TRY(curve.error, pointsFrom(matrix.at("error")));
            ESPALIER_TRY(curve.singular, pointsFrom(matrix.at("singular")));
        }
    } catch (const Json::exception&) {
        return resourceError("engine.answer", "rank_curves", "The engine's answer cannot be understood.",
                             "Choose an engine of this version.");
    }
    return curves;
}

QString matrixName(int matrix)
{
    switch (matrix) {
        case 0:
            return QCoreApplication::translate("ExpertSpectra", "gate");
        case 1:
            return QCoreApplication::translate("ExpertSpectra", "up");
        default:
            return QCoreApplication::translate("ExpertSpectra", "down");
    }
}

}  // namespace espalier
