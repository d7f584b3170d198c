// Spectra of the cells that were looked at, from the engine: at most one request in flight, the newest cell wins, answers are kept per
// profile. GUI thread.
#pragma once

#include "experts/expert_spectra.h"
#include "shell/engine/engine_client.h"

#include <QObject>

#include <map>
#include <optional>

namespace espalier
{

class RankCurveStore final : public QObject
{
    Q_OBJECT
public:
    explicit RankCurveStore(EngineClient* engine, QObject* parent = nullptr);

    // The file that curves come from and its content; another one forgets what came from the last. Empty: none.
    void setProfile(const QString& file, const QString& sha256);
    void setCell(CellId cell);  // the cell whose curves are wanted
    CellId cell() const { return m_cell; }
    std::optional<ExpertSpectra> curves() const;                   // of cell(), or not there (yet)
    const std::optional<Error>& error() const { return m_error; }  // why there are none

signals:
    void changed();

private:
    void ask();

    EngineClient* m_engine;
    QString m_file;
    QString m_sha256;
    CellId m_cell;
    std::map<CellId, ExpertSpectra> m_known;
    std::optional<Error> m_error;  // of m_cell
    std::int64_t m_request = 0;
    int m_epoch = 0;  // counts profiles: answers of an earlier one are dropped
};

}  // namespace espalier
