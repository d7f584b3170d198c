#include "experts/expert_spectra.h"

#include <QCoreApplication>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

Result<QVector<QPointF>> pointsFrom(const std::vector<std::pair<int, double>>& list)
{
    QVector<QPointF> points;
    for (const auto& [x, y] : list) {
        if ((!points.isEmpty() && x <= points.back().x()) || !std::isfinite(y))
            return resourceError("engine.answer", RankCurvesRequest::kMethod, "The engine's answer cannot be understood.",
                                 "Choose an engine of this version.");
        points.append({static_cast<double>(x), y});
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

Result<ExpertSpectra> ExpertSpectra::from(const RankCurvesAnswer& answer)
{
    ExpertSpectra curves;
    curves.cell = {answer.layer, answer.expert};
    curves.whitened = answer.whitened;
    std::size_t m = 0;
    for (const SpectrumPoints* points : {&answer.gate, &answer.up, &answer.down}) {
        MatrixSpectrum& curve = curves.matrices[m++];
        curve.rows = points->rows;
        curve.columns = points->columns;
        curve.fullRank = points->fullRank;
        curve.breakEven = points->breakEven;
        ESPALIER_TRY(curve.error, pointsFrom(points->error));
        ESPALIER_TRY(curve.singular, pointsFrom(points->singular));
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
