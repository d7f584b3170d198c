// Spectra of one expert's matrices, as the engine answers rank_curves: what the plots, the inspector and the rank fields read.
#pragma once

#include "base/error.h"
#include "experts/selection.h"
#include "rpc/protocol_profile.h"

#include <QPointF>
#include <QString>
#include <QVector>

#include <array>
#include <optional>

namespace espalier
{

struct MatrixSpectrum {
    int rows = 0;
    int columns = 0;
    int fullRank = 0;
    int breakEven = 0;
    QVector<QPointF> error;     // rank, share of the squared norm lost; ranks ascending from 0
    QVector<QPointF> singular;  // index from 1, singular value

    bool empty() const { return error.isEmpty(); }
    double lostAt(double rank) const;  // linear between points, 1 .. 0; NaN without points
    double keptAt(double rank) const { return 1 - lostAt(rank); }
    std::optional<int> rankKeeping(double energy) const;  // smallest rank that keeps at least this share
};

struct ExpertSpectra {
    CellId cell;
    bool whitened = false;
    std::array<MatrixSpectrum, 3> matrices;  // gate, up, down

    bool empty() const;  // no token reached the expert

    // Error: engine.answer where the points do not ascend.
    static Result<ExpertSpectra> from(const RankCurvesAnswer& answer);
};

QString matrixName(int matrix);  // "gate", "up", "down"

}  // namespace espalier
