#include "shell/engine/rank_curve_store.h"

#include "rpc/protocol_profile.h"

namespace espalier
{

namespace
{
constexpr std::size_t kMostKept = 4096;  // cells; each 3 x 2 x 256 points
}  // namespace

RankCurveStore::RankCurveStore(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine)
{
    connect(m_engine, &EngineClient::ready, this, &RankCurveStore::ask);
}

void RankCurveStore::setProfile(const QString& file, const QString& sha256)
{
    if (file == m_file && sha256 == m_sha256) return;
    m_file = file;
    m_sha256 = sha256;
    ++m_epoch;
    m_request = 0;
    m_known.clear();
    m_error.reset();
    emit changed();
    ask();
}

void RankCurveStore::setCell(CellId cell)
{
    if (cell == m_cell) return;
    m_cell = cell;
    m_error.reset();
    emit changed();
    ask();
}

std::optional<ExpertSpectra> RankCurveStore::curves() const
{
    const auto it = m_known.find(m_cell);
    return it == m_known.end() ? std::nullopt : std::optional(it->second);
}

void RankCurveStore::ask()
{
    // The answer of the request that runs asks again, for whatever is wanted then.
    if (m_request != 0 || m_file.isEmpty() || !m_cell.valid() || m_cell.expert < 0 || m_known.contains(m_cell) || m_error) return;
    if (!m_engine->usable()) return;
    const CellId cell = m_cell;
    m_request = m_engine->ask(RankCurvesRequest{m_file.toStdString(), cell.layer, cell.expert}, {},
                              [this, cell, epoch = m_epoch](const EngineAnswer<RankCurvesAnswer>& reply) {
                                  if (epoch != m_epoch) return;
                                  m_request = 0;
                                  if (reply.ok()) {
                                      Result<ExpertSpectra> curves = ExpertSpectra::from(reply.value);
                                      if (m_known.size() >= kMostKept) m_known.clear();
                                      if (curves.ok() && curves->cell == cell)
                                          m_known[cell] = std::move(curves).value();
                                      else if (cell == m_cell)
                                          m_error = curves.ok() ? resourceError("engine.answer", RankCurvesRequest::kMethod,
                                                                                tr("The engine answered for another expert.").toStdString())
                                                                : curves.error();
                                  } else if (reply.outcome == EngineReply::Outcome::Failed && cell == m_cell) {
                                      m_error = reply.error;
                                  }
                                  emit changed();
                                  if (reply.outcome != EngineReply::Outcome::Lost) ask();
                              });
}

}  // namespace espalier
